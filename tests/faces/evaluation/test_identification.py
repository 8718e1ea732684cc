"""Identification figures against plain loops, with failed photos in every role."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from hfembed import EmbeddingIndex
from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.loading import load_face_embedder
from hfembed.cli import main
from hfembed.errors import InputError
from hfembed.faces.evaluation.identification import (
    NEVER,
    blufr,
    compare_all,
    cumulative_match,
    detection_and_identification,
    draw_blufr_trials,
    first_photos,
    identify,
    megaface,
    people_interval,
)
from hfembed.faces.evaluation.people_embeddings import embed_people
from hfembed.faces.evaluation.verification import roc, tar_at_far


def make_photos(people: int = 30, seed: int = 0, dimension: int = 12, failed: float = 0.05, noise: float = 0.7):
    """Photos of people, 1 to 5 each, in a random order; some without an embedding."""
    generator = np.random.default_rng(seed)
    owner = generator.permutation(np.repeat(np.arange(people), generator.integers(1, 6, people)))
    vectors = generator.standard_normal((people, dimension))[owner]
    vectors = vectors + noise * generator.standard_normal(vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[generator.random(len(owner)) < failed] = np.nan
    return vectors.astype(np.float32), np.array([f"person {number:02d}" for number in owner])


def test_ranks_equal_a_plain_loop():
    vectors, people = make_photos()
    gallery, probes = np.arange(0, len(people), 2), np.arange(1, len(people), 2)
    found = identify(vectors[gallery], people[gallery], vectors[probes], people[probes])
    for place, probe in enumerate(probes):
        scores: dict[str, float] = {}
        for row in gallery:
            if not np.isnan(vectors[row, 0]):
                score = float(vectors[row] @ vectors[probe])
                scores[people[row]] = max(score, scores.get(people[row], -2))
        assert found.mated[place] == (people[probe] in people[gallery])
        if np.isnan(vectors[probe, 0]):
            assert found.rank[place] == NEVER and found.best_score[place] == -np.inf
            continue
        assert found.best_score[place] == pytest.approx(max(scores.values()), abs=1e-6)
        own = scores.get(people[probe])
        expected = NEVER if own is None else sum(score >= own - 1e-7 for score in scores.values())
        assert found.rank[place] == expected


def test_cmc_counts_failures_as_never_found():
    gallery, people = np.eye(3, dtype=np.float32), ["a", "b", "c"]
    gallery[2] = np.nan
    probes = np.array([[1, 0, 0], [0.9, 0.3, 0], [0, 0, 1], [np.nan] * 3, [0, 1, 0]], dtype=np.float32)
    found = identify(gallery, people, probes, ["a", "b", "c", "a", "stranger"])
    assert found.rank.tolist() == [1, 2, NEVER, NEVER, NEVER]
    assert found.mated.tolist() == [True, True, True, True, False]
    np.testing.assert_allclose(cumulative_match(found, 5), [0.25, 0.5, 0.5, 0.5, 0.5])


def test_a_collapsed_model_is_no_perfect_one():
    same = np.ones((4, 3), dtype=np.float32)
    found = identify(same, list("abcd"), same, list("abcd"))
    assert found.rank.tolist() == [4] * 4, "an equal score of somebody else counts as better"


@pytest.mark.parametrize("far", [0.05, 0.2, 1.0])
def test_open_set_rate_is_the_best_within_the_false_alarm_rate(far):
    vectors, people = make_photos(people=80, seed=1)
    known = np.array([int(name.split()[1]) < 40 for name in people])
    gallery = first_photos([f"{row:04d}" for row in range(len(people))], people) & known
    found = identify(vectors[gallery], people[gallery], vectors[~gallery], people[~gallery])
    result = detection_and_identification(found, far)
    candidates = [-1.0, *np.nextafter(found.best_score[np.isfinite(found.best_score)], np.float32(2))]
    best = max(
        ((found.rank == 1) & (found.best_score >= threshold))[found.mated].mean()
        for threshold in candidates
        if (found.best_score[~found.mated] >= threshold).mean() <= far
    )
    assert result.rate == pytest.approx(best) and result.far <= far
    assert result.hits.mean() == result.rate
    with pytest.raises(InputError, match="FAR 0.001 cannot be measured"):
        detection_and_identification(found, 0.001)


def test_all_pairs_equal_verification_of_every_pair():
    vectors, people = make_photos(people=40, seed=2)
    first, second = np.triu_indices(len(people), 1)
    scores = np.einsum("pd,pd->p", vectors[first], vectors[second])
    same, failed = people[first] == people[second], np.isnan(scores)
    expected = roc(scores, same, failed)
    pairs = compare_all(vectors, people)
    curve = pairs.histogram.roc()
    assert (curve.genuine, curve.impostors) == (expected.genuine, expected.impostors)
    for far in (0.01, 0.1, 1.0):
        assert tar_at_far(curve, far).tar == pytest.approx(tar_at_far(expected, far).tar, abs=1e-3)
        assert tar_at_far(curve, far).threshold == pytest.approx(
            max(-1, tar_at_far(expected, far).threshold), abs=0.01
        )
    assert len(pairs.genuine_scores) == (same & ~failed).sum() and pairs.genuine_trials.sum() == same.sum()
    stored = pairs.histogram.thresholds("every pair")
    assert stored["impostors"] == (~same).sum() and stored["calibration"]["slope"] > 0


def test_the_interval_knows_that_photos_of_one_person_go_together():
    people = np.repeat(np.arange(50), 20)
    generator = np.random.default_rng(0)
    clustered = np.repeat(generator.random(50) < 0.5, 20)  # all photos of a person fail or none
    low, high = people_interval(clustered, people)
    assert low < clustered.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * (0.25 / 50) ** 0.5, rel=0.2)
    independent = generator.random(1000) < 0.5
    low, high = people_interval(independent, people)
    assert high - low == pytest.approx(2 * 1.96 * (0.25 / 1000) ** 0.5, rel=0.3)


def test_blufr_trials_divide_the_people():
    vectors, people = make_photos(people=200, seed=3, failed=0)
    trials = draw_blufr_trials(people, trials=3, training_people=50, gallery_people=60, seed=7)
    for test, gallery, genuine, impostors in trials:
        assert len(set(people[test])) == 150
        assert len(gallery) == len(set(people[gallery])) == 60
        assert set(people[genuine]) == set(people[gallery])
        assert not set(people[impostors]) & set(people[gallery])
        assert sorted([*gallery, *genuine, *impostors]) == sorted(test)
    assert not np.array_equal(trials[0].test, trials[1].test)
    verification, identification = blufr(vectors, people, trials, 0.01, 0.05)
    assert verification.shape == identification.shape == (3,)
    assert (verification > 0.05).all() and (identification <= 1).all()
    with pytest.raises(InputError, match="too few|leave"):
        draw_blufr_trials(people)


def test_megaface_equals_a_plain_loop_and_takes_blocks_of_any_size():
    vectors, people = make_photos(people=12, seed=4, noise=1.0)
    several = np.array([(people == name).sum() > 1 for name in people])
    vectors, people = vectors[several], people[several]
    generator = np.random.default_rng(5)
    crowd = generator.standard_normal((5000, 12)).astype(np.float32)
    crowd /= np.linalg.norm(crowd, axis=1, keepdims=True)
    crowd[17] = np.nan
    usable = crowd[~np.isnan(crowd[:, 0])]
    results = [
        megaface(vectors, people, np.array_split(crowd, pieces), sizes=(10, 300, 4500, 10**6), far=1e-3)
        for pieces in (1, 37)
    ]
    for result in results:
        assert result.distractors == 4999 and list(result.rank_1) == [10, 300, 4500]
        for size, rate in result.rank_1.items():
            found = []
            for probe in range(len(people)):
                for mate in range(len(people)):
                    if mate != probe and people[mate] == people[probe]:
                        own = vectors[probe] @ vectors[mate]
                        found.append(own > (usable[:size] @ vectors[probe]).max())  # a comparison with NaN is False
            assert rate == pytest.approx(np.mean(found))
        scored = vectors[~np.isnan(vectors[:, 0])]
        allowed = int(1e-3 * len(vectors) * 4999)
        assert (scored @ usable.T > result.threshold + 1e-6).sum() <= allowed
        assert (scored @ usable.T > result.threshold - 1e-5).sum() >= allowed
    assert results[0].rank_1 == results[1].rank_1 and results[0].tar == results[1].tar
    with pytest.raises(InputError, match="fewer than the smallest number"):
        megaface(vectors, people, [crowd[:5]])
    with pytest.raises(InputError, match="nobody among the probes has two photos"):
        megaface(vectors[:1], people[:1], [crowd])


@pytest.mark.parametrize("gallery", [np.empty((0, 3)), np.full((2, 3), np.nan)])
def test_an_empty_gallery_is_one_line(gallery):
    with pytest.raises(InputError, match="both need some with an embedding"):
        identify(gallery, ["a"] * len(gallery), np.eye(3), list("abc"))


def test_the_command_leaves_figures_pictures_and_an_index(tiny_lfw, checkpoint, tmp_path, monkeypatch, capsys):
    landmarks = json.loads(tiny_lfw.landmarks.read_text())
    landmarks["Person_B/Person_B_0002.jpg"] = None
    (tmp_path / "landmarks.json").write_text(json.dumps(landmarks))
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)

    def run(*more):
        monkeypatch.setattr(sys, "argv", [
            *("hfembed", "evaluate", "identification", str(model), "--images", str(tiny_lfw.folder)),
            *("--landmarks", str(tmp_path / "landmarks.json"), "--output", str(tmp_path / "out")),
            *("--index", str(tmp_path / "index"), "--num-workers", "0", "--device", "cpu", *more),
        ])  # fmt: skip
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, *capsys.readouterr()

    code, out, _ = run("--store-thresholds")
    assert code == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    details = results["identification"]
    assert details["weights"] == Checkpoint.resolve(str(model)).fingerprint
    assert details["photos"] == {"all": 24, "people": 12, "failed": 1}
    assert details["failures"] == {"Person_B/Person_B_0002.jpg": "no face detected"}
    assert results["identification_rank_1"] <= 100 * 11 / 12, "an undetected probe is an error"
    assert details["all_pairs"]["genuine"] == 12 and details["all_pairs"]["impostor"] == 24 * 23 // 2 - 12
    assert "people leave" in details["blufr"]["left_out"]
    assert f"rank-1 {results['identification_rank_1']:.2f}" in out
    assert "Person_B/Person_B_0002.jpg: no face detected" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("results.json", "cmc.png", "det.png", "identification_roc.png")
    }
    assert AutoConfig.from_pretrained(model).thresholds["impostors"] == 24 * 23 // 2 - 12
    assert len(EmbeddingIndex.load(tmp_path / "index")) == 23

    code, _, _ = run("--distractors", str(tiny_lfw.folder), "--distractor-landmarks", str(tmp_path / "landmarks.json"))
    assert code == 0
    again = json.loads((tmp_path / "out" / "results.json").read_text())
    assert again["identification_rank_1"] == results["identification_rank_1"]
    assert again["identification"]["megaface"]["searches"] == 24
    assert again["identification_megaface_rank_1_of_23"] == 0, "everybody is their own best distractor"

    (tmp_path / "landmarks.json").unlink()
    code, _, err = run()
    assert code == 1 and err.count("\n") == 1 and "landmarks.json" in err


@pytest.mark.parametrize("change", ["weights", "mirror", "landmarks", "undetected", "processor", "photos"])
def test_an_index_of_other_embeddings_is_refused(tiny_lfw, checkpoint, tmp_path, change):
    model, processor = load_face_embedder(str(checkpoint), "cpu")
    options = {"landmarks": tiny_lfw.landmarks, "index_folder": tmp_path / "index", "undetected": "error"}
    options |= {"num_workers": 0, "progress": False}
    source = tmp_path / "photos"
    shutil.copytree(tiny_lfw.folder, source)
    first = embed_people(model, processor, source, **options)
    again = embed_people(model, processor, source, **options)
    np.testing.assert_allclose(again.embeddings, first.embeddings, atol=1e-6)
    if change == "weights":
        with torch.no_grad():
            next(model.parameters()).mul_(1.01)
    elif change == "mirror":
        model.config.mirror = "sum" if model.config.mirror != "sum" else "none"
    elif change == "landmarks":
        moved = json.loads(tiny_lfw.landmarks.read_text())
        moved["Person_B/Person_B_0001.jpg"][0][0] += 1
        options["landmarks"] = tmp_path / "moved.json"
        options["landmarks"].write_text(json.dumps(moved))
    elif change == "undetected":
        options["undetected"] = "center-crop"
    elif change == "processor":
        processor.image_mean = [value / 2 for value in processor.image_mean]
    else:
        next(source.rglob("*_0002.jpg")).unlink()
    with pytest.raises(InputError, match="index"):
        embed_people(model, processor, source, **options)
