"""WIDER FACE's protocol against a reference that walks threshold by threshold, detection by detection."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from typer.testing import CliRunner

from hfembed.cli import app
from hfembed.errors import InputError
from hfembed.faces.evaluation.wider_face import SUBSETS, MarkedPhoto, precision_recall, read_ground_truth
from tests.checkpoint.checkpoints import write_checkpoint


def overlap(box, marked):
    """Intersection over union of [left, top, right, bottom] and [left, top, width, height], last pixels included."""
    right, bottom = marked[0] + marked[2], marked[1] + marked[3]
    width = min(box[2], right) - max(box[0], marked[0]) + 1
    height = min(box[3], bottom) - max(box[1], marked[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = (box[2] - box[0] + 1) * (box[3] - box[1] + 1) + (marked[2] + 1) * (marked[3] + 1)
    return width * height / (areas - width * height)


def reference(photos, detections, subset):
    """Average precision: every threshold from the start."""
    every = [score for _, scores in detections.values() for score in scores]
    low, high = min(every), max(every)
    faces = sum(int(photo.counted[subset].sum()) for photo in photos)
    points = []
    for number in range(1000):
        threshold = 1 - (number + 1) / 1000
        right = reported = 0
        for photo in photos:
            boxes, scores = detections[photo.file]
            if len(photo.boxes) == 0:
                continue
            found = set()
            for box, score in zip(boxes, scores, strict=True):
                if (score - low) / (high - low) < threshold:
                    continue
                overlaps = [overlap(box, marked) for marked in photo.boxes]
                nearest = int(np.argmax(overlaps))
                if overlaps[nearest] >= 0.5 and not photo.counted[subset][nearest]:
                    continue
                reported += 1
                if overlaps[nearest] >= 0.5:
                    found.add(nearest)
            right += len(found)
        points.append((right / faces, right / reported if reported else 0.0))
    area, before = 0.0, 0.0
    for number, (recall, _) in enumerate(points):
        area += (recall - before) * max(precision for _, precision in points[number:])
        before = recall
    return area


def generated(seed, photos=12):
    random = np.random.default_rng(seed)
    marked, detections = [], {}
    for number in range(photos):
        count = int(random.integers(0, 7))
        boxes = np.concatenate([random.uniform(0, 300, (count, 2)), random.uniform(10, 80, (count, 2))], 1).round()
        level = random.integers(0, 4, count)
        counted = {subset: level <= rank for rank, subset in enumerate(SUBSETS)}
        photo = MarkedPhoto(f"1--Event/{number}.jpg", boxes, counted)
        near = np.repeat(boxes, random.integers(0, 3, count), axis=0)
        near = near + random.normal(0, 6, near.shape)
        far = np.concatenate([random.uniform(0, 300, (2, 2)), random.uniform(10, 80, (2, 2))], 1)
        every = np.concatenate([near, far]) if number % 5 else far[:0]
        scores = np.sort(random.uniform(0.02, 0.98, len(every)))[::-1]
        every = every[random.permutation(len(every))]
        corners = np.concatenate([every[:, :2], every[:, :2] + np.abs(every[:, 2:])], 1)
        detections[photo.file] = corners, scores
        marked.append(photo)
    return marked, detections


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("subset", SUBSETS)
def test_average_precision_is_that_of_the_reference(seed, subset):
    photos, detections = generated(seed)
    curve = precision_recall(photos, detections, subset)
    assert 0 < curve.average_precision < 1
    assert curve.average_precision == pytest.approx(reference(photos, detections, subset), abs=1e-12)
    assert (np.diff(curve.recall) >= 0).all() and curve.precision.shape == (1000,)


def test_perfect_and_absent_detections():
    boxes = np.array([[10.0, 10, 20, 20], [50, 50, 20, 20]])
    photo = MarkedPhoto("a.jpg", boxes, {"all": np.array([True, False])})
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    # the second is found, but does not count
    perfect = precision_recall([photo], {"a.jpg": (corners[::-1], np.array([0.9, 0.8]))}, "all")
    assert perfect.average_precision == 1
    none = precision_recall([photo], {"a.jpg": (np.zeros((0, 4)), np.zeros(0))}, "all")
    assert none.average_precision == 0
    with pytest.raises(InputError, match="no face of the subset 'all'"):
        precision_recall([photo._replace(counted={"all": np.zeros(2, bool)})], {"a.jpg": (corners, np.ones(2))}, "all")


def cells(values):
    array = np.empty((len(values), 1), dtype=object)
    for number, value in enumerate(values):
        array[number, 0] = value
    return array


def write_mat(folder, photos, event="1--Event", first=1):
    names = [photo.file.partition("/")[2].removesuffix(".jpg") for photo in photos]
    common = {"event_list": cells([event]), "file_list": cells([cells(names)])}
    savemat(folder / "wider_face_val.mat", common | {"face_bbx_list": cells([cells([p.boxes for p in photos])])})
    for subset in SUBSETS:
        indices = [np.flatnonzero(photo.counted[subset])[:, None] + first for photo in photos]
        savemat(folder / f"wider_{subset}_val.mat", common | {"gt_list": cells([cells(indices)])})


def test_the_official_files_are_read(tmp_path):
    photos, _ = generated(0)
    write_mat(tmp_path, photos)
    read = read_ground_truth(tmp_path)
    assert [photo.file for photo in read] == [photo.file for photo in photos]
    for photo, expected in zip(read, photos, strict=True):
        np.testing.assert_array_equal(photo.boxes, expected.boxes)
        for subset in SUBSETS:
            np.testing.assert_array_equal(photo.counted[subset], expected.counted[subset])


def test_the_text_file_is_read(tmp_path):
    (tmp_path / "gt.txt").write_text(
        "0--Parade/a.jpg\n2\n10 20 30 40 0 0 0 0 0 0 \n1 2 3 4 2 0 0 1 2 0\n"
        "0--Parade/none.jpg\n0\n0 0 0 0 0 0 0 0 0 0\n0--Parade/b.jpg\n1\n5 6 7 8\n"
    )
    a, none, b = read_ground_truth(tmp_path / "gt.txt")
    assert a.boxes.tolist() == [[10, 20, 30, 40], [1, 2, 3, 4]] and a.counted["all"].tolist() == [True, False]
    assert (none.file, none.boxes.shape, b.boxes.tolist()) == ("0--Parade/none.jpg", (0, 4), [[5, 6, 7, 8]])


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("a.jpg\nx\n", "line 2: expected the number of faces in a.jpg"),
        ("a.jpg\n999999999\n", "line 2: expected the number"),
        ("a.jpg\n2\n1 2 3 4\n", "line 3: expected 2 faces"),
        ("a.jpg\n1\n1 2 3\n", "expected 1 faces of a.jpg, left, top, width, height"),
        ("a.jpg\n1\n1 2 3 x\n", "line 3: the faces of a.jpg are no rows of numbers"),
        ("a.jpg\n1\n1 2 3 nan\n", "a.jpg are not finite"),
        ("../a.jpg\n1\n1 2 3 4\n", "'../a.jpg' is not a path below"),
        ("/a.jpg\n1\n1 2 3 4\n", "'/a.jpg' is not a path below"),
        ("", "marks no photo"),
    ],
)
def test_a_damaged_text_file_is_named(content, match, tmp_path):
    (tmp_path / "gt.txt").write_text(content)
    with pytest.raises(InputError, match=match):
        read_ground_truth(tmp_path / "gt.txt")


def test_missing_and_damaged_mat_files_are_named(tmp_path):
    with pytest.raises(InputError, match="lacks wider_face_val.mat, wider_easy_val.mat"):
        read_ground_truth(tmp_path)
    photos, _ = generated(0)
    write_mat(tmp_path, photos, event="../other")
    with pytest.raises(InputError, match="'../other/0.jpg' is not a path below"):
        read_ground_truth(tmp_path)
    for first, match in ((0, "ground truth: 1--Event/0 has a face 0; the first is 1"), (50, "out of bounds")):
        write_mat(tmp_path, photos, first=first)
        with pytest.raises(InputError, match=match):
            read_ground_truth(tmp_path)
    (tmp_path / "wider_hard_val.mat").write_bytes(b"no file of MATLAB")
    with pytest.raises(InputError, match="are not WIDER FACE's ground truth"):
        read_ground_truth(tmp_path)


def test_the_command(tmp_path):
    detector = write_checkpoint("hfembed_yunet", tmp_path / "detector")
    (tmp_path / "images").mkdir()
    for name in "ab":
        pixels = np.random.default_rng(ord(name)).integers(0, 256, (64, 80, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.jpg")
    (tmp_path / "gt.txt").write_text("a.jpg\n1\n10 10 30 30\nb.jpg\n1\n1 2 40 40\n")
    command = ["evaluate", "detection", str(detector), "--images", str(tmp_path / "images")]
    command += ["--ground-truth", str(tmp_path / "gt.txt"), "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.exception
    assert "average precision, all" in done.stdout
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert 0 <= results["wider_face_ap_all"] <= 100
    assert results["wider_face"]["settings"]["score_threshold"] == 0.02
    assert results["wider_face"]["settings"]["max_image_size"] is None
    assert (tmp_path / "out" / "precision_recall.png").is_file()
    (tmp_path / "images" / "b.jpg").unlink()
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1 and "b.jpg" in str(done.exception)
