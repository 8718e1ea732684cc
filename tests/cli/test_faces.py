"""`hfembed verify | embed | identify | analyzer`, as typed."""

import json
import os
import sys

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from hfembed import FaceEmbedderConfig, FaceEmbedderModel, FaceImageProcessor
from hfembed.cli import main
from hfembed.errors import InputError
from hfembed.faces.data.faces import FaceSource, load_faces
from hfembed.faces.data.landmarks import read_landmarks
from tests.faces.conftest import analyzer, draw, folder  # noqa: F401


@pytest.fixture
def hfembed(monkeypatch, capsys):
    monkeypatch.delenv("HFEMBED_FACE_MODEL", raising=False)

    def run(*arguments, fails=False):
        monkeypatch.setattr(sys, "argv", ["hfembed", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert bool(ended.value.code) == fails, captured
        return captured.err if fails else captured.out

    return run


@pytest.fixture
def photos(tmp_path):
    for name, person in (("a", 1), ("b", 1), ("c", 2)):
        draw((50, 30), person=person).save(tmp_path / f"{name}.png")
    draw().save(tmp_path / "nobody.png")
    return tmp_path


def test_the_model_is_an_option_or_in_the_environment(hfembed, photos, folder, monkeypatch):  # noqa: F811
    error = hfembed("verify", photos / "a.png", photos / "b.png", "--model", photos / "missing", fails=True)
    assert "missing" in error
    monkeypatch.setenv("HFEMBED_FACE_MODEL", str(folder))
    assert "same person" in hfembed("verify", photos / "a.png", photos / "b.png")


def test_verify(hfembed, photos, folder):  # noqa: F811
    answer = hfembed("verify", photos / "a.png", photos / "b.png", "--model", folder)
    assert answer.startswith("the same person") and "threshold 0.900 for the highest accuracy on drawn pairs" in answer
    assert "probability of the same person 0.8" in answer and "faces, of which" not in answer
    draw((10, 10), (90, 50), person=1).save(photos / "two.png")
    answer = hfembed("verify", photos / "a.png", photos / "two.png", "--model", folder)
    assert f"{photos}/two.png: 2 faces, of which the largest was compared" in answer and "a.png" not in answer
    result = json.loads(
        hfembed("verify", photos / "a.png", photos / "c.png", "--model", folder, "--far", "0.01", "--json")
    )
    assert result["far"] == 0.01 and result["threshold"] == 0.999 and result["threshold_data"] == "drawn pairs"
    assert result["same"] == (result["similarity"] >= 0.999)
    assert result["distance"] == pytest.approx(2 - 2 * result["similarity"])
    error = hfembed("verify", photos / "a.png", photos / "nobody.png", "--model", folder, fails=True)
    assert error == f"error: {photos}/nobody.png: no face was found\n"
    error = hfembed("verify", photos / "a.png", photos / "b.png", "--model", folder, "--far", "1e-6", fails=True)
    assert "no threshold for a false accept rate of 1e-06; it has: 0.01" in error


def test_faces_of_too_low_a_quality_are_set_aside_and_said(hfembed, photos, folder):  # noqa: F811
    model = ("--model", folder, "--min-quality", "1")
    error = hfembed("verify", photos / "a.png", photos / "b.png", *model, fails=True)
    assert f"error: {photos}/a.png: 1 of 1 faces set aside, quality 0.8" in error and error.count("\n") == 1
    error = hfembed("explain", photos / "a.png", photos / "b.png", photos / "why.png", *model, fails=True)
    assert f"error: {photos}/a.png: 1 of 1 faces set aside, quality 0.8" in error and "(--min-quality 0)" in error
    error = hfembed("group", photos, photos / "groups", *model, "--far", "0.01", fails=True)
    assert "no face in any of the 4 photos; the first, a.png: 1 of 1 faces set aside" in error
    answer = hfembed("embed", photos, photos / "out.parquet", *model)
    assert "0 faces, 4 photos without one" in answer
    (photos / "gallery" / "Ann").mkdir(parents=True)
    draw((50, 30), person=1).save(photos / "gallery" / "Ann" / "1.png")
    error = hfembed("identify", photos / "gallery", photos / "a.png", *model, fails=True)
    assert "none of the photos of" in error and "set aside" in error
    hfembed("identify", photos / "gallery", photos / "a.png", "--model", folder, "--save", photos / "index")
    draw((10, 10), (90, 50), person=2).save(photos / "two.png")
    arguments = ("identify", photos / "index", photos / "a.png", photos / "two.png", "--model", folder, "--json")
    assert json.loads(hfembed(*arguments))["set_aside"] == []
    qualities = sorted(row["quality"] for row in json.loads(hfembed(*arguments, "--min-quality", "0"))["faces"])
    threshold = (qualities[0] + qualities[1]) / 2
    answer = json.loads(hfembed(*arguments, "--min-quality", str(threshold)))
    assert len(answer["faces"]) == 2 and [row["quality"] for row in answer["set_aside"]] == qualities[:1]


def test_embed(hfembed, photos, folder):  # noqa: F811
    (photos / "broken.jpg").write_text("x")
    answer = hfembed("embed", photos, photos / "out.parquet", "--model", folder)
    assert "5 photos, 3 faces, 2 photos without one" in answer
    assert pq.read_table(photos / "out.parquet").num_rows == 5
    (photos / "empty").mkdir()
    error = hfembed("embed", photos / "empty", photos / "none.parquet", fails=True)
    assert "empty contains no photos" in error
    before = (photos / "a.png").read_bytes()
    error = hfembed("embed", photos, photos / "a.png", "--model", folder, fails=True)
    assert "a.png does not end in .parquet" in error and (photos / "a.png").read_bytes() == before


def test_what_embed_skips_is_said_once(hfembed, photos, folder, caplog):  # noqa: F811
    (photos / "notes.txt").write_text("x")
    hfembed("embed", photos, photos / "out.parquet", "--model", folder)
    assert caplog.text.count("notes.txt") == 1


def test_what_group_skips_is_said_once(hfembed, photos, folder, tmp_path, caplog):  # noqa: F811
    (photos / "notes.txt").write_text("x")
    hfembed("group", photos, tmp_path / "groups", "--model", folder, "--map", "none", "--far", 0.01)
    assert caplog.text.count("notes.txt") == 1


def test_a_read_only_output_is_refused_before_the_work(hfembed, photos, folder, monkeypatch):  # noqa: F811
    (photos / "kept").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "kept" not in str(path) and access(path, mode))
    monkeypatch.setattr("hfembed.faces.face_analyzer.FaceAnalyzer.from_pretrained", None)  # not called
    for command in (
        ("embed", photos, photos / "kept" / "out.parquet"),
        ("identify", photos, photos / "a.png", "--save", photos / "kept" / "index"),
        ("group", photos, photos / "kept" / "groups"),
    ):
        error = hfembed(*command, "--model", folder, fails=True)
        assert "cannot be written: no permission" in error and error.count("\n") == 1


def test_two_runs_into_one_output_leave_one_of_them_whole(hfembed, photos, folder):  # noqa: F811
    for faces, rows in (("all", 4), ("largest", 4)):
        hfembed("embed", photos, photos / "out.parquet", "--model", folder, "--faces", faces)
        assert pq.read_table(photos / "out.parquet").num_rows == rows
    assert not [path for path in photos.iterdir() if path.name.startswith(".")]


def test_identify(hfembed, photos, folder):  # noqa: F811
    for person, pattern in (("Ann", 1), ("Bob", 2)):
        (photos / "gallery" / person).mkdir(parents=True)
        draw((50, 30), person=pattern).save(photos / "gallery" / person / "1.png")
    # the rate's threshold lets only the same picture pass
    arguments = ("--model", folder, "--far", "0.01", "--min-quality", "0")
    stranger = photos / "stranger.png"
    Image.eval(draw((50, 30), person=9), lambda value: value and 230).save(stranger)
    saved = photos / "index"
    answer = hfembed("identify", photos / "gallery", photos / "c.png", stranger, *arguments, "--save", saved)
    assert f"{photos}/c.png: Bob  (face " in answer and f"{stranger}: unknown" in answer
    found = json.loads(hfembed("identify", saved, photos / "c.png", photos / "nobody.png", *arguments, "--json"))
    assert [face["name"] for face in found["faces"]] == ["Bob"]
    assert found["errors"] == [f"{photos}/nobody.png: no face was found"]
    assert "no face to identify" in hfembed("identify", saved, photos / "nobody.png", *arguments, fails=True)
    assert "not both" in hfembed("identify", saved, photos / "c.png", *arguments, "--fpir", "0.1", fails=True)
    assert "no threshold at FPIR" in hfembed(
        "identify", saved, photos / "c.png", "--model", folder, "--fpir", "0.1", fails=True
    )
    # another model's embeddings say nothing about these, of the same length though they are
    torch.manual_seed(1)
    other = FaceEmbedderModel(FaceEmbedderConfig.from_pretrained(folder))
    other.save_pretrained(photos / "other")
    FaceImageProcessor.from_pretrained(folder).save_pretrained(photos / "other")
    error = hfembed(
        *("identify", saved, photos / "c.png", "--model", photos / "other", "--detector", folder / "detector"),
        fails=True,
    )
    assert "was made by another model: its weights are" in error


def test_an_analyzer_is_put_together(hfembed, photos, folder, tmp_path):  # noqa: F811
    output = tmp_path / "made"
    assert f"--model {output}" in hfembed("analyzer", folder / "detector", folder, output)
    result = json.loads(hfembed("verify", photos / "a.png", photos / "c.png", "--model", output, "--json"))
    by_parts = hfembed(
        "verify", photos / "a.png", photos / "c.png", "--model", folder, "--detector", folder / "detector", "--json"
    )
    assert result == json.loads(by_parts)
    assert (output / "README.md").exists()
    assert "already exists" in hfembed("analyzer", folder / "detector", folder, output, fails=True)
    assert "not a face detector" in hfembed("analyzer", folder, folder, tmp_path / "other", fails=True)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("command", ["verify", "explain", "identify", "swap", "denoise", "similar"])
def test_a_mistyped_photo_is_named_before_a_model_is_loaded(hfembed, photos, command):
    nothing, out, model = photos / "nothing.jpg", photos / "out.png", photos / "no_model"
    arguments = {
        "verify": (photos / "a.png", nothing, "--model", model),
        "explain": (photos / "a.png", nothing, out, "--model", model),
        "identify": (photos, nothing, "--model", model),
        "swap": (model, nothing, "ann", out, "--landmarks", "1,1 2,2 3,3 4,4 5,5"),
        "denoise": (model, nothing, out),
        "similar": (model, photos, nothing),
    }[command]
    assert hfembed(command, *arguments, fails=True) == f"error: {nothing}: no such file\n"


def test_a_folder_has_no_calibrated_threshold(hfembed, photos):
    arguments = ("identify", photos, photos / "a.png", "--model", photos / "no_model", "--fpir", "0.01")
    error = hfembed(*arguments, fails=True)
    assert error.startswith(f"error: --fpir needs an index that was calibrated, and {photos} is a folder of photos")


def test_an_index_without_the_threshold_is_not_saved(hfembed, photos, folder):  # noqa: F811
    (photos / "gallery" / "Ann").mkdir(parents=True)
    draw((50, 30), person=1).save(photos / "gallery" / "Ann" / "1.png")
    asked = (photos / "a.png", "--model", folder)
    hfembed("identify", photos / "gallery", *asked, "--save", photos / "index")
    error = hfembed("identify", photos / "index", *asked, "--fpir", "0.1", "--save", photos / "copy", fails=True)
    assert "no threshold at FPIR" in error and not (photos / "copy").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--map", "umap", "--threshold", "0.5"], "umap-learn is not installed"),
        ([], "no threshold for a false accept"),
    ],
)
def test_what_grouping_lacks_is_said_before_the_work(hfembed, photos, folder, monkeypatch, options, line):  # noqa: F811
    monkeypatch.setitem(sys.modules, "umap", None)
    monkeypatch.setattr("hfembed.faces.detection.read_face_crops", None)  # not called
    assert line in hfembed("group", photos, photos / "groups", "--model", folder, *options, fails=True)


def test_an_analyzer_without_thresholds_is_said_to_be_one(hfembed, folder, tmp_path, monkeypatch, capsys):  # noqa: F811
    model = FaceEmbedderModel.from_pretrained(folder)
    model.config.thresholds = None
    model.save_pretrained(tmp_path / "model")
    FaceImageProcessor.from_pretrained(folder).save_pretrained(tmp_path / "model")
    monkeypatch.setattr(sys, "argv", [str(part) for part in (
        "hfembed", "analyzer", folder / "detector", tmp_path / "model", tmp_path / "out"
    )])  # fmt: skip
    with pytest.raises(SystemExit):
        main()
    warning = capsys.readouterr().err
    assert f"`hfembed evaluate identification {tmp_path}/model --images PEOPLE" in warning


def test_landmarks_are_found_for_training(hfembed, tmp_path, folder, caplog):  # noqa: F811
    for name, person in (("Ann/1", 1), ("Bob/1", 2)):
        (tmp_path / "people" / name).parent.mkdir(parents=True)
        draw((50, 30), person=person).save(tmp_path / "people" / f"{name}.png")
    draw().save(tmp_path / "people" / "Bob" / "2.png")
    (tmp_path / "people" / "Bob" / "3.png").write_bytes(b"no photo")
    arguments = ("landmarks", tmp_path / "people", tmp_path / "found.json", "--detector", folder / "detector")
    assert "4 photos, 1 without a face, 1 that cannot be read; written to" in hfembed(*arguments)
    found = read_landmarks(tmp_path / "found.json")
    assert found["Bob/2.png"] is found["Bob/3.png"] is None and found["Ann/1.png"].shape == (5, 2)
    assert found["Ann/1.png"].mean(0) == pytest.approx((74, 59), abs=3), "the middle of what was drawn at (50, 30)"
    faces = load_faces(FaceSource(tmp_path / "people", landmarks=tmp_path / "found.json"))
    assert [points is None for points in faces["landmarks"][:]] == [False, False, True, True]
    error = hfembed("landmarks", tmp_path / "people", tmp_path / "people" / "Ann" / "1.png", fails=True)
    assert "does not end in .json" in error
    assert "--overwrite" in hfembed(*arguments, fails=True)
    (tmp_path / "people" / "Bob").rename(tmp_path / "people" / "Eve")
    load_faces(FaceSource(tmp_path / "people", landmarks=tmp_path / "found.json"))
    assert "found.json does not name 3 of the 4 photos" in caplog.text
    (tmp_path / "people" / "Ann").rename(tmp_path / "people" / "Mia")
    with pytest.raises(InputError, match=r"names none of the 4 photos of .*such as Eve/1.png.*name is Ann/1.png"):
        load_faces(FaceSource(tmp_path / "people", landmarks=tmp_path / "found.json"))


def test_a_figure_of_no_format_is_refused_before_the_work(hfembed, photos):
    error = hfembed("explain", photos / "a.png", photos / "b.png", photos / "why.txt", fails=True)
    assert "why.txt: expected a name that ends in one of .png" in error
