"""Swapping in photos: pasted where the face was, in its colors, the rest untouched, and marked as generated."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from hfembed.cli import app
from hfembed.cli.swap import read_points
from hfembed.errors import InputError
from hfembed.faces.swap.face_swapper import FaceSwapper
from hfembed.faces.swap.provenance_mark import LABEL, NOTE, save_marked, with_label
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor, template_for_size
from tests.faces.swap.two_colors import SIZE, two_color_model


@pytest.fixture
def model():
    return two_color_model()


@pytest.fixture
def processor():
    return FaceImageProcessor(size=SIZE, image_mean=0.0, image_std=1.0)


def photo(width=200, height=150):
    """Smooth, so that resampling back and forth keeps it."""
    y, x = np.mgrid[:height, :width]
    red, green = 100 + 60 * np.sin(x / 40), 120 + 60 * np.cos(y / 50)
    return Image.fromarray(np.stack([red, green, 90 + 30 * np.sin((x + y) / 60)], axis=2).astype(np.uint8))


def landmarks(middle=(100, 70), size=64, degrees=0.0):
    """The template at a place, a size and an angle."""
    points = np.array(template_for_size(size, size)) - size / 2
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points @ turn.T + middle


def test_a_face_that_does_not_change_comes_back_to_its_place(model, processor, monkeypatch):
    monkeypatch.setattr(model, "swap", lambda pixel_values, person: (pixel_values, None))
    for points in (landmarks(), landmarks(degrees=35, size=90), landmarks(size=24)):
        swapped, _ = FaceSwapper(model, processor, colors="none")(photo(), "red", [points])
        difference = np.abs(np.asarray(swapped).astype(int) - np.asarray(photo()).astype(int))
        assert difference.max() <= 4, difference.max()


def test_a_model_that_corrects_photos_keeps_their_detail_where_little_changes(model, processor, monkeypatch):
    noise = np.random.default_rng(0).integers(60, 200, (150, 200, 3), dtype=np.uint8)
    monkeypatch.setattr(type(model), "corrects_photos", True)
    mask = torch.zeros(1, 1, SIZE, SIZE)  # the correction has had it
    swapper, middle = FaceSwapper(model, processor, colors="none"), np.s_[65:75, 95:105]
    changes = []
    for levels in (4, 40):
        monkeypatch.setattr(model, "swap", lambda pixels, person, levels=levels: (pixels + levels / 255, mask))
        swapped = np.asarray(swapper(Image.fromarray(noise), "red", [landmarks(size=100)])[0]).astype(int)
        assert (swapped[:10] == noise[:10]).all()
        changes.append(swapped[middle] - noise[middle])
    assert (changes[0] == 4).all(), "the difference, not the face drawn in 32 pixels"
    assert changes[1].std() > 20 and (noise[middle] + changes[1]).std() < 25, "the face drawn, nothing of the old one"


def test_a_face_at_the_edge_and_one_outside(model, processor):
    swapper = FaceSwapper(model, processor, colors="none")
    assert (np.asarray(swapper(photo(), "red", [landmarks((4, 140))])[0])[140, 4] == [255, 0, 0]).all()
    with pytest.raises(InputError, match="^the photo: cannot be .*outside the photo"):
        swapper(photo(), "red", [landmarks((-400, 70), 100)])


def test_the_face_changes_and_the_rest_does_not(model, processor):
    swapped = np.asarray(FaceSwapper(model, processor, colors="none")(photo(), "red", [landmarks()])[0])
    before = np.asarray(photo())
    assert (swapped[70, 100] - np.array([255, 0, 0]) == 0).all()
    assert np.array_equal(swapped[:, :60], before[:, :60]) and np.array_equal(swapped[120:], before[120:])
    steps = np.abs(np.diff(swapped[72].astype(int), axis=0)).max()
    assert steps < 60, "the edge is soft"


def test_the_predicted_mask_narrows_the_oval(model, processor, monkeypatch):
    face, mask = torch.ones(1, 3, SIZE, SIZE), torch.zeros(1, 1, SIZE, SIZE)
    monkeypatch.setattr(model, "swap", lambda pixel_values, person: (face, mask))
    assert np.array_equal(FaceSwapper(model, processor)(photo(), "red", [landmarks()])[0], np.asarray(photo()))


def test_all_faces_or_the_chosen_ones_from_the_left(model, processor):
    points = [landmarks((150, 70), 50), landmarks((50, 70), 50)]
    swapper = FaceSwapper(model, processor, colors="none")
    answers = [swapper(photo(), "blue", points, faces) for faces in (None, [1], [1, 1])]
    assert [count for _, count in answers] == [2, 1, 1]
    both, second, _ = (np.asarray(swapped) for swapped, _ in answers)
    assert both[70, 50, 2] > 250 and both[70, 150, 2] > 250
    assert second[70, 150, 2] > 250 and np.array_equal(second[:, :90], np.asarray(photo())[:, :90])
    with pytest.raises(InputError, match="2 faces, .*no 2"):
        swapper(photo(), "blue", points, [2])


@pytest.mark.parametrize("colors", ["deviation", "covariance", "histogram", "seamless"])
def test_a_new_face_takes_the_old_ones_colors(model, processor, monkeypatch, colors):
    dark = lambda pixel_values, person: (0.8 * pixel_values.flip(3), None)  # noqa: E731
    monkeypatch.setattr(model, "swap", dark)
    old, drawn, matched = (
        np.asarray(picture, dtype=float)[55:90, 85:115].mean((0, 1))
        for picture in (
            photo(),
            *(FaceSwapper(model, processor, colors=way)(photo(), "red", [landmarks()])[0] for way in ("none", colors)),
        )
    )
    assert (np.abs(matched - old) < 0.25 * np.abs(drawn - old)).all()


def test_mirrored_landmarks_are_refused(model, processor):
    swapper = FaceSwapper(model, processor, colors="none")
    for degrees in (0, 100, 200):
        face = landmarks(degrees=degrees)
        assert swapper(photo(), "red", [face])[1] == 1
        with pytest.raises(InputError, match="left and right are exchanged"):
            swapper(photo(), "red", [face[[1, 0, 2, 4, 3]]])


def test_unknown_colors_are_refused(model, processor):
    with pytest.raises(ValueError, match="colors must be one of deviation, .*, none, not 'mean'"):
        FaceSwapper(model, processor, colors="mean")


def test_finds_faces_by_a_detector(model, processor):
    class Detector:
        def __init__(self, points):
            self.points = torch.tensor(np.array(points)).reshape(-1, 5, 2)

        def detect(self, pictures):
            return [SimpleNamespace(landmarks=self.points) for _ in pictures]

    swapped, _ = FaceSwapper(model, processor, Detector([landmarks()]), colors="none")(photo(), "blue")
    assert np.asarray(swapped)[70, 100, 2] > 250
    with pytest.raises(InputError, match="no face was found"):
        FaceSwapper(model, processor, Detector([]))(photo(), "blue")
    with pytest.raises(InputError, match="detector, or five landmarks"):
        FaceSwapper(model, processor)(photo(), "blue")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_the_mark_is_in_the_file_and_on_the_picture(tmp_path, suffix):
    original = photo()
    save_marked(original, tmp_path / f"swapped{suffix}")
    with Image.open(tmp_path / f"swapped{suffix}") as reread:
        assert reread.getexif()[270] == NOTE
        xmp = reread.info["xmp"]
        assert b"compositeWithTrainedAlgorithmicMedia" in (xmp if isinstance(xmp, bytes) else xmp.encode())
        difference = np.abs(np.asarray(reread.convert("RGB")).astype(int) - np.asarray(original).astype(int))
    assert difference[-12:, -60:].max() > 60, "the label"
    assert difference[:100, :100].max() < 12
    save_marked(original, tmp_path / f"unlabelled{suffix}", label=False)
    with Image.open(tmp_path / f"unlabelled{suffix}") as reread:
        assert reread.getexif()[270] == NOTE
        assert np.abs(np.asarray(reread.convert("RGB")).astype(int) - np.asarray(original).astype(int)).max() < 12


def test_the_label_fits_a_small_picture():
    for mode in ("RGB", "L"):
        marked = with_label(photo(40, 30).convert(mode))
        assert LABEL and (marked.mode, marked.size) == (mode, (40, 30))


def test_a_format_without_a_note_is_refused(tmp_path):
    with pytest.raises(InputError, match="keep the note"):
        save_marked(photo(), tmp_path / "swapped.bmp")


def test_the_command(model, processor, tmp_path):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    photo().save(tmp_path / "photo.png")
    points = " ".join(f"{x:.2f},{y:.2f}" for x, y in landmarks())
    command = ["swap", str(tmp_path / "model"), str(tmp_path / "photo.png"), "blue", str(tmp_path / "out.png")]
    done = CliRunner().invoke(app, [*command, "--landmarks", points, "--colors", "none"])
    assert done.exit_code == 0, done.exception
    assert done.stdout.endswith("out.png, marked as generated: 1 face\n")
    assert np.asarray(Image.open(tmp_path / "out.png"))[70, 100, 2] > 250
    photo().convert("L").save(tmp_path / "gray.png")
    gray = [*command[:2], str(tmp_path / "gray.png"), *command[3:], "--landmarks", points]
    assert CliRunner().invoke(app, gray).exit_code == 0
    assert Image.open(tmp_path / "out.png").mode == "L", "a gray photo stays gray"
    for arguments, words in [
        ([*command, "--landmarks", points, "--detector", "one"], "--detector or --landmarks"),
        ([*command[:3], "green", command[4], "--landmarks", points], "'green'.*red, blue"),
        ([*command, "--landmarks", "1,2 3,4"], "five x,y"),
        ([*command[:2], str(tmp_path / "absent.png"), *command[3:], "--landmarks", points], "absent.png"),
    ]:
        refused = CliRunner().invoke(app, arguments)
        with pytest.raises(InputError, match=words):
            raise refused.exception


def test_landmarks_from_a_file(tmp_path):
    face = landmarks().tolist()
    for content in (face, [face], {"a.jpg": face, "b.jpg": [face, face]}):
        (tmp_path / "points.json").write_text(json.dumps(content))
        assert read_points(str(tmp_path / "points.json"), "a.jpg") == [face]
    assert read_points(str(tmp_path / "points.json"), "b.jpg") == [face, face]
    with pytest.raises(InputError, match="no landmarks for c.jpg"):
        read_points(str(tmp_path / "points.json"), "c.jpg")
    (tmp_path / "points.json").write_text('{"a.jpg": []}')
    with pytest.raises(InputError, match="no landmarks for a.jpg"):
        read_points(str(tmp_path / "points.json"), "a.jpg")
    with pytest.raises(InputError, match=r"absent.json: no such file$"):
        read_points(str(tmp_path / "absent.json"), "a.jpg")
