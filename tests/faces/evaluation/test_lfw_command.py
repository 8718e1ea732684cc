"""`hfembed evaluate lfw` as a user calls it: the files it leaves, and one line when something is wrong."""

import json
import shutil
import sys

import pytest
import torch
from PIL import Image
from transformers import AutoModel, ResNetConfig

from hfembed.cli import main


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command in this process; exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hfembed", "evaluate", "lfw", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return run


def arguments(tiny_lfw, output):
    return [
        *("--images", tiny_lfw.archive, "--pairs", tiny_lfw.pairs, "--landmarks", tiny_lfw.landmarks),
        *("--output", output, "--num-workers", 0, "--device", "cpu"),
    ]


def test_figures_and_pictures_are_written(run, tiny_lfw, checkpoint, tmp_path):
    (tmp_path / "results.json").write_text('{"other_figure": 1, "lfw_view2_old_figure": 2}')
    code, out, _ = run(checkpoint, *arguments(tiny_lfw, tmp_path), "--baselines")
    assert code == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert 0 <= results["lfw_view2_accuracy"] <= 100
    assert results["lfw_view2_standard_error"] >= 0
    assert f"accuracy {results['lfw_view2_accuracy']:.2f}" in out
    assert results["other_figure"] == 1 and "lfw_view2_old_figure" not in results
    details = results["lfw_view2"]
    assert details["mirror"] == "concatenate"
    assert details["pairs"] == {"genuine": 8, "impostor": 8, "failed": 0}
    assert len(details["files"]["images"]["sha256"]) == 64
    assert details["command"].startswith("hfembed evaluate lfw")
    assert set(details["baselines"]["rows"]) == {"pixels", "eigenfaces", "whitened_eigenfaces"}
    for picture in ("roc.png", "mistakes.png"):
        with Image.open(tmp_path / picture) as opened:
            assert opened.width > 500
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "roc.png", "mistakes.png"}


def test_the_mirror_can_be_left_out(run, tiny_lfw, checkpoint, tmp_path):
    code, _, _ = run(checkpoint, *arguments(tiny_lfw, tmp_path), "--mirror", "none")
    assert code == 0
    assert json.loads((tmp_path / "results.json").read_text())["lfw_view2"]["mirror"] == "none"


def test_stored_thresholds_decide_in_the_reloaded_model(run, tiny_lfw, checkpoint, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    code, _, _ = run(folder, *arguments(tiny_lfw, folder), "--mirror", "sum", "--store-thresholds")
    assert code == 0
    model = AutoModel.from_pretrained(folder)
    assert model.config.mirror == "sum"
    model.config.thresholds.pop("weights")  # their fingerprint
    assert model.config.thresholds == json.loads((folder / "results.json").read_text())["lfw_view2"]["thresholds"]
    face = torch.nn.functional.normalize(torch.ones(1, 16))
    assert model.verify(face, face).item()


@pytest.mark.parametrize("missing", ["--images", "--pairs", "--landmarks"])
def test_a_missing_file_is_one_line(run, tiny_lfw, checkpoint, tmp_path, missing):
    given = arguments(tiny_lfw, tmp_path)
    given[given.index(missing) + 1] = tmp_path / "nowhere.tgz"
    code, _, err = run(checkpoint, *given)
    assert code == 1
    assert "nowhere.tgz" in err and err.count("\n") == 1 and err.startswith("error: ")
    assert not (tmp_path / "results.json").exists()


def test_what_is_no_face_embedder_is_one_line(run, tiny_lfw, checkpoint, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    code, _, err = run(empty, *arguments(tiny_lfw, tmp_path))
    assert code == 1 and f"{empty} lacks config.json" in err and err.count("\n") == 1

    code, _, err = run(tmp_path / "nowhere", *arguments(tiny_lfw, tmp_path))
    assert code == 1 and "nowhere: no such folder" in err and err.count("\n") == 1

    ResNetConfig().save_pretrained(tmp_path / "resnet")
    code, _, err = run(tmp_path / "resnet", *arguments(tiny_lfw, tmp_path))
    assert code == 1 and "unsupported model_type 'resnet'" in err and err.count("\n") == 1

    code, _, err = run(checkpoint, *arguments(tiny_lfw, tmp_path)[:-1], "warp-drive")
    assert code == 1 and "device 'warp-drive'" in err and err.count("\n") == 1

    code, _, err = run(checkpoint, *arguments(tiny_lfw, tmp_path)[:-1], "cuda:99")
    assert code == 1 and "device 'cuda:99' is not on this machine" in err and err.count("\n") == 1


def test_results_that_are_no_json_are_not_overwritten(run, tiny_lfw, checkpoint, tmp_path):
    (tmp_path / "results.json").write_text("half a file {")
    code, _, err = run(checkpoint, *arguments(tiny_lfw, tmp_path))
    assert code == 1 and "results.json is not JSON" in err
    assert (tmp_path / "results.json").read_text() == "half a file {"
