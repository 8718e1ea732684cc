"""A face analyzer with a detector of any family: saved, loaded, turned, and measured on the command line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from hfembed import FaceAnalyzer
from hfembed.cli import app
from hfembed.errors import InputError
from tests.checkpoint.checkpoints import write_checkpoint


@pytest.fixture(params=["hfembed_yunet", "hfembed_retinaface"])
def folders(request, tmp_path):
    write_checkpoint(request.param, tmp_path / "detector")
    write_checkpoint("hfembed_face_embedder", tmp_path / "embedder")
    return tmp_path


def test_the_analyzer_keeps_its_detectors_classes(folders):
    command = ["analyzer", str(folders / "detector"), str(folders / "embedder"), str(folders / "analyzer")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.exception
    analyzer = FaceAnalyzer.from_pretrained(folders / "analyzer")
    analyzer.save_pretrained(folders / "copy")
    copy = FaceAnalyzer.from_pretrained(folders / "copy")
    assert type(copy.detector) is type(analyzer.detector)
    assert type(copy.detector_processor) is type(analyzer.detector_processor)
    written = json.loads((folders / "copy" / "detector" / "preprocessor_config.json").read_text())
    assert written["image_processor_type"] == type(analyzer.detector_processor).__name__
    photo = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for ours, theirs in zip(analyzer.detector.detect_in([photo])[0], copy.detector.detect_in([photo])[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_no_face_in_a_photo_that_was_searched_smaller_is_said(folders):
    Image.fromarray(np.zeros((60, 400, 3), np.uint8)).save(folders / "a.png")
    command = ["verify", str(folders / "a.png"), str(folders / "a.png"), "--model", str(folders / "embedder")]
    command += ["--detector", str(folders / "detector"), "--turned", "--max-image-size"]
    detector = json.loads((folders / "detector" / "config.json").read_text())
    (folders / "detector" / "config.json").write_text(json.dumps(detector | {"score_threshold": 1.0}))
    done = CliRunner().invoke(app, [*command, "100"])
    assert isinstance(done.exception, InputError) and "at 100 of 400 pixels" in str(done.exception)
    done = CliRunner().invoke(app, [*command, "0"])
    assert isinstance(done.exception, InputError) and str(done.exception).endswith("no face was found")
    done = CliRunner().invoke(app, [*command, "5"])
    assert done.exit_code == 1 and "max_image_size must lie between" in str(done.exception)
