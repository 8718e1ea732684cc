"""LFW's protocol on a tiny set with the same files: sources, failures, thresholds, baselines."""

import json
import shutil

import numpy as np
import pytest
import torch

from hfembed.errors import InputError
from hfembed.faces.data.lfw import load_lfw, read_pairs
from hfembed.faces.evaluation.lfw import LfwVerification
from hfembed.faces.evaluation.pixel_baselines import pixel_baseline_embeddings
from hfembed.faces.evaluation.verification import k_fold_accuracy


def make_lfw(images, pairs, landmarks=None, **arguments):
    return LfwVerification(images, pairs, landmarks, batch_size=4, num_workers=0, progress=False, **arguments)


def test_view_2_is_the_k_fold_accuracy_of_the_cosines(tiny_lfw, model, processor):
    lfw = make_lfw(tiny_lfw.folder, tiny_lfw.pairs, tiny_lfw.landmarks)
    result = lfw.evaluate(model, processor)
    pairs = read_pairs(tiny_lfw.pairs)
    landmarks = json.loads(tiny_lfw.landmarks.read_text())
    scores = []
    for pair in zip(pairs.file_a, pairs.file_b, strict=True):
        crops = [processor.align(tiny_lfw.folder / file, landmarks[file]) for file in pair]
        a, b = model.embed(processor.normalize(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)))
        scores.append(float(a.double() @ b.double()))
    np.testing.assert_allclose(result.scores, scores, atol=1e-5)
    expected = k_fold_accuracy(scores, pairs.same, pairs.fold)
    assert result.metrics["lfw_view2_accuracy"] == pytest.approx(100 * expected.mean)
    assert result.metrics["lfw_view2_standard_error"] == pytest.approx(100 * expected.standard_error)
    assert lfw(model, processor) == result.metrics
    assert lfw.primary_metric in result.metrics
    assert result.thresholds["impostors"] == 8
    assert "1e-1" in result.details["far_not_measurable"]


def test_archive_folder_and_dataset_give_the_same(tiny_lfw, model, processor):
    sources = [tiny_lfw.archive, tiny_lfw.folder, load_lfw(tiny_lfw.folder)]
    scores = [make_lfw(source, tiny_lfw.pairs).evaluate(model, processor).scores for source in sources]
    np.testing.assert_array_equal(scores[0], scores[1])
    np.testing.assert_array_equal(scores[0], scores[2])


def test_missing_broken_and_undetected_faces_are_errors_and_named(tiny_lfw, model, processor, tmp_path):
    folder = tmp_path / "lfw"
    shutil.copytree(tiny_lfw.folder, folder)
    missing, broken, undetected = (f"Person_{who}/Person_{who}_0001.jpg" for who in "ABC")
    (folder / missing).unlink()
    (folder / broken).write_bytes(b"broken")
    landmarks = json.loads(tiny_lfw.landmarks.read_text()) | {undetected: None}
    (tmp_path / "landmarks.json").write_text(json.dumps(landmarks))

    lfw = make_lfw(folder, tiny_lfw.pairs, tmp_path / "landmarks.json")
    result = lfw.evaluate(model, processor)
    assert set(result.details["failures"]) == {missing, broken, undetected}
    assert result.details["failures"][undetected] == "no face detected"
    failed = result.scorer.failed
    assert failed.sum() == result.details["pairs"]["failed"] == 6
    pairs = read_pairs(tiny_lfw.pairs)
    expected = k_fold_accuracy(result.scores, pairs.same, pairs.fold, failed).mean
    assert result.metrics["lfw_view2_accuracy"] == pytest.approx(100 * expected)
    assert expected <= 10 / 16

    forgiving = make_lfw(folder, tiny_lfw.pairs, tmp_path / "landmarks.json", undetected="center-crop")
    assert set(forgiving.evaluate(model, processor).details["failures"]) == {missing, broken}


def test_view_1_says_where_its_threshold_comes_from(tiny_lfw, model, processor):
    alone = make_lfw(tiny_lfw.folder, tiny_lfw.view1_pairs).evaluate(model, processor)
    assert "tested pairs themselves" in alone.details["protocol"]
    # the same pairs as threshold pairs choose the same threshold
    own = make_lfw(tiny_lfw.folder, tiny_lfw.view1_pairs, threshold_pairs=tiny_lfw.view1_pairs)
    result = own.evaluate(model, processor)
    assert result.details["protocol"] == "View 1: threshold chosen on 8 other pairs"
    assert result.metrics["lfw_view1_accuracy"] == alone.metrics["lfw_view1_accuracy"]
    assert "lfw_view1_standard_error" not in result.metrics


def test_crops_are_kept_until_the_processor_changes(tiny_lfw, processor, model):
    lfw = make_lfw(tiny_lfw.folder, tiny_lfw.pairs)
    crops = lfw.aligned(processor)
    assert lfw.aligned(processor) is crops
    assert lfw.aligned(type(processor)(size=[48, 32])).pixels.shape[2:] == (48, 32)


def test_baselines_are_fitted_outside_the_pairs_and_separate_textures(tiny_lfw, processor):
    lfw = make_lfw(tiny_lfw.folder, tiny_lfw.pairs)
    outside = lfw.aligned_outside(processor)
    assert {file.split("/")[0] for file in outside.files} == {f"Stranger_{letter}" for letter in "ABCD"}
    crops = lfw.aligned(processor)
    baselines = pixel_baseline_embeddings(outside.pixels, crops.pixels)
    assert list(baselines) == ["pixels", "eigenfaces", "whitened_eigenfaces"]
    assert lfw.result(baselines["pixels"], crops).metrics["lfw_view2_auc"] > 95
    # all components together are a rotation of the fitted crops' centered pixels: cosines stay
    itself = pixel_baseline_embeddings(outside.pixels, outside.pixels)
    cosines = [rows @ rows.T for rows in (itself["pixels"], itself["eigenfaces"])]
    np.testing.assert_allclose(cosines[0], cosines[1], atol=1e-3 * np.abs(cosines[0]).max())


def test_bad_input_is_one_clear_line(tiny_lfw, processor, tmp_path):
    (tmp_path / "people.txt").write_text("1\nNobody\t1\t2\nNobody\t1\tNowhere\t1\n")
    with pytest.raises(
        InputError, match=r"contains none of the 3 images that the pairs name \(such as Nobody/Nobody_0001"
    ):
        make_lfw(tiny_lfw.folder, tmp_path / "people.txt").aligned(processor)
    with pytest.raises(InputError, match="threshold pairs belong to View 1"):
        make_lfw(tiny_lfw.folder, tiny_lfw.pairs, threshold_pairs=tiny_lfw.view1_pairs)
    with pytest.raises(InputError, match="undetected='skip': choose 'error' or 'center-crop'"):
        make_lfw(tiny_lfw.folder, tiny_lfw.pairs, undetected="skip")
