"""Real faces for the converters."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def real_crops(research_data):
    """(16, 112, 112, 3) uint8: faces on the standard five-point template."""
    crops = []
    with tarfile.open(research_data / "celeba299" / "aligned_112x112.tgz") as archive:
        while len(crops) < 16:
            member = archive.next()
            if member.name.endswith(".jpg"):
                crops.append(np.asarray(Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB")))
    return np.stack(crops)
