"""IJB's templates against plain loops, the lists as insightface writes them, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

from hfembed.checkpoint.card import write_card
from hfembed.errors import InputError
from hfembed.faces.evaluation.templates import evaluate_templates, pool_templates, read_template_set
from tests.cli.test_faces import hfembed  # noqa: F401
from tests.faces.conftest import analyzer, folder  # noqa: F401
from tests.hub.hub_server import check_card

DIMENSION = 16


def write_set(root, people=16, templates=5, seed=0):
    """A set as it is distributed: per template three media, of one to three faces each; embeddings of the faces."""
    generator = np.random.default_rng(seed)
    (root / "meta").mkdir(parents=True)
    (root / "loose_crop").mkdir()
    centers = generator.standard_normal((people, DIMENSION))
    members, points, embeddings = [], [], []
    for template in range(people * templates):
        for media in range(3):
            for _ in range(generator.integers(1, 4)):
                file = f"{len(members) + 1}.jpg"
                members.append(f"{file} {template + 100} {media + 10 * template}")
                points.append(f"{file} 38.3 51.7 73.5 51.5 56.0 71.7 41.5 92.4 70.7 92.2 {generator.uniform():.6f}")
                embeddings.append(centers[template // templates] + generator.standard_normal(DIMENSION))
    pairs = [
        (a + 100, b + 100, int(a // templates == b // templates))
        for a in range(people * templates)
        for b in range(a + 1, people * templates)
    ]
    (root / "meta" / "ijbc_face_tid_mid.txt").write_text("\n".join(members) + "\n")
    (root / "meta" / "ijbc_name_5pts_score.txt").write_text("\n".join(points) + "\n")
    (root / "meta" / "ijbc_template_pair_label.txt").write_text("".join(f"{a} {b} {same}\n" for a, b, same in pairs))
    header = "TEMPLATE_ID,SUBJECT_ID,FILENAME\n"
    for name, rows in (
        ("gallery_G1", [person * templates for person in range(0, people, 2)]),
        ("gallery_G2", [person * templates for person in range(1, people, 2)]),
        ("probe_mixed", [row for row in range(people * templates) if row % templates]),
    ):
        lines = [f"{row + 100},{row // templates},img/{row}.png\n" * 2 for row in rows]
        (root / "meta" / f"ijbc_1N_{name}.csv").write_text(header + "".join(lines))
    embeddings = np.array(embeddings, dtype=np.float32)
    norms = np.linalg.norm(embeddings, axis=1)
    return embeddings / norms[:, None], norms


def brute_force(tested, embeddings, weights):
    vectors = {}
    for template in set(tested.templates.tolist()):
        total = np.zeros(DIMENSION)
        for media in set(tested.media[tested.templates == template].tolist()):
            rows = np.flatnonzero((tested.templates == template) & (tested.media == media))
            total += np.mean([weights[row] * embeddings[row].astype(np.float64) for row in rows], axis=0)
        vectors[template] = total / np.linalg.norm(total)
    return vectors


@pytest.mark.parametrize("weight", ["none", "norm", "both"])
def test_figures_are_those_of_plain_loops(tmp_path, weight):
    embeddings, norms = write_set(tmp_path / "set")
    tested = read_template_set(tmp_path / "set")
    assert tested.name == "ijbc" and len(tested.files) == len(embeddings) and len(tested.pairs) == 80 * 79 // 2
    factor = {"none": np.ones(len(norms)), "norm": norms, "both": norms * tested.scores}[weight]
    vectors = brute_force(tested, embeddings, factor)
    names, pooled = pool_templates(embeddings, tested.templates, tested.media, factor)
    np.testing.assert_allclose(pooled, [vectors[name] for name in names.tolist()], atol=1e-5)

    metrics, details, _ = evaluate_templates(tested, embeddings, norms, weight)
    scores = np.array([vectors[names[a]] @ vectors[names[b]] for a, b in tested.pairs.tolist()])
    impostors = np.sort(scores[~tested.same])[::-1]
    for far, label in ((0.1, "1e-1"), (0.01, "1e-2")):
        threshold = impostors[int(far * len(impostors))]
        assert metrics[f"ijbc_tar_at_far_{label}"] == pytest.approx(100 * (scores[tested.same] > threshold).mean())
    assert "1e-6" in details["far_not_measurable"] and details["templates"] == {"all": 80, "failed": 0}
    found = []
    for templates, people in tested.galleries:
        for probe, person in zip(*tested.probes, strict=True):
            if person in people:
                best = max(range(len(people)), key=lambda row: vectors[templates[row]] @ vectors[probe])
                found.append(people[best] == person)
    assert metrics["ijbc_rank_1"] == pytest.approx(100 * np.mean(found))
    assert 0 < metrics["ijbc_tpir_at_fpir_0.1"] <= 100 and "ijbc_tpir_at_fpir_0.01" not in metrics


def test_faces_that_failed_take_no_part(tmp_path):
    embeddings, norms = write_set(tmp_path / "set")
    tested = read_template_set(tmp_path / "set")
    embeddings[0], embeddings[tested.templates == 101] = np.nan, np.nan
    names, pooled = pool_templates(embeddings, tested.templates, tested.media)
    assert np.isnan(pooled[names == 101]).all() and np.isfinite(pooled[names != 101]).all()
    _, details, curve = evaluate_templates(tested, embeddings, norms)
    assert details["templates"]["failed"] == 1 and curve.genuine == tested.same.sum()


def test_from_photos_to_the_card(hfembed, folder, tmp_path):  # noqa: F811
    write_set(tmp_path / "set", people=4)
    for file in read_template_set(tmp_path / "set").files[1:]:
        pixels = np.random.default_rng(len(file)).integers(0, 256, (112, 112, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "set" / "loose_crop" / file)
    arguments = ("--set", tmp_path / "set", "--output", tmp_path / "out", "--num-workers", "0", "--weight", "norm")
    answer = hfembed("evaluate", "templates", folder, *arguments)
    assert "ijbc: 20 templates" in answer and "weighted by norm" in answer and "1 photos failed" in answer
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert 0 <= results["ijbc_tar_at_far_1e-1"] <= 100 and (tmp_path / "out" / "ijbc_roc.png").is_file()

    shutil.copytree(folder, tmp_path / "model")
    for file in (tmp_path / "out").iterdir():
        shutil.copy(file, tmp_path / "model")
    card = ModelCard(write_card(tmp_path / "model").read_text())
    claimed = {result.metric_name: result for result in card.data.eval_results}
    assert claimed["TAR at FAR 1e-1"].metric_value == round(results["ijbc_tar_at_far_1e-1"], 2)
    assert claimed["rank-1 identification rate"].metric_value == round(results["ijbc_rank_1"], 2)
    assert {result.dataset_name for result in claimed.values()} == {"IJB-C (set, 20 templates)"}
    assert claimed["TAR at FAR 1e-1"].task_name == "face verification" and check_card(card.content, "model") == []
    assert "weighted by norm" in card.text and "(ijbc_roc.png)" in card.text


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("ijbc_face_tid_mid.txt", lambda text: text.replace("1.jpg", "../1.jpg", 1), "other photos"),
        ("ijbc_face_tid_mid.txt", lambda text: text.replace(" 100 ", " one ", 1), "not such a list"),
        (
            "ijbc_template_pair_label.txt",
            lambda text: text.replace("100 ", "999 ", 1),
            "no face belongs to template 999",
        ),
        ("ijbc_name_5pts_score.txt", lambda text: text.replace("38.3", "nan", 1), "not finite"),
        ("ijbc_name_5pts_score.txt", None, "has 0 files"),
    ],
)
def test_damaged_lists_are_one_line(tmp_path, file, change, message):
    write_set(tmp_path / "set", people=3)
    path = tmp_path / "set" / "meta" / file
    if change is None:
        path.unlink()
    else:
        path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=message) as error:
        read_template_set(tmp_path / "set")
    assert "\n" not in str(error.value)


def test_a_photo_outside_the_folder_is_not_opened(tmp_path):
    write_set(tmp_path / "set", people=3)
    for file in ("ijbc_face_tid_mid.txt", "ijbc_name_5pts_score.txt"):
        path = tmp_path / "set" / "meta" / file
        path.write_text(path.read_text().replace("1.jpg", "../../secret.jpg", 1))
    with pytest.raises(InputError, match="secret.jpg leads out of the folder"):
        read_template_set(tmp_path / "set")
