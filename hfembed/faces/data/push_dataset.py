"""Photos of people -> a dataset repository on the Hub."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
from PIL import Image

from hfembed.checkpoint.dataset_card import dataset_card
from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.data.face_sources import face_features
from hfembed.hub.commit import Pushed
from hfembed.hub.dataset import Part, push_dataset
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor, template_for_size


def push_faces(
    parts: Mapping[str, Part],
    repo_id: str,
    *,
    title: str,
    about: str,
    tags: Sequence[str] = (),
    license: str | None = None,
    **options: Any,
) -> Pushed:
    """Push photos of people, to a private repository unless `private` is False.

    Args:
        tags: To find it by, beside "face-recognition".
        license: The Hub's name of its license; "other" where it is not given.
        **options: private, revision, tag, token and overwrite_card of `hfembed.hub.dataset.push_dataset`.
    """
    card = dataset_card(
        parts,
        title=title,
        about=about,
        tags=["face-recognition", *tags],
        task="image-feature-extraction",
        license=license,
    )
    return push_dataset(parts, repo_id, card, private_if_new=True, **options)


def crop_faces(faces: datasets.Dataset, size: int, num_workers: int = 0) -> datasets.Dataset:
    """Photos -> crops on the standard template, lossless, with the template's points for landmarks.

    Raises:
        InputError: No photo can be used.
    """
    crops = AlignedFaces(faces, FaceImageProcessor(size=[size, size]), num_workers=num_workers)
    features = face_features(faces.features["label"])
    return datasets.Dataset.from_generator(_crop_rows, gen_kwargs={"crops": crops, "size": size}, features=features)


def _crop_rows(crops: AlignedFaces, size: int) -> Iterator[dict[str, object]]:
    landmarks = np.asarray(template_for_size(size, size)).tolist()
    for row, file in enumerate(crops.files):
        pixels = crops[0, row]["pixels"].numpy().transpose(1, 2, 0).squeeze()
        label = int(crops.labels[row])
        yield {"image": Image.fromarray(pixels), "label": label, "file": file, "landmarks": landmarks}
