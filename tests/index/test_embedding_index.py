"""The index against brute force, its thresholds, its files, and what it refuses."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

import hfembed.index.vector_store as vector_store
from hfembed import EmbeddingIndex
from hfembed.errors import InputError
from hfembed.index import text_column
from hfembed.index.embedding_index import INDEX_FILES, _relative
from hfembed.index.origin import Origin
from hfembed.index.text_column import TextColumn, read_texts, write_texts


def gallery(people: int = 40, dimension: int = 32, seed: int = 0, most: int = 6):
    """Clustered vectors: a person has 1 to `most` of them around one direction."""
    generator = np.random.default_rng(seed)
    centers = generator.standard_normal((people, dimension))
    owners = np.repeat(np.arange(people), generator.integers(1, most + 1, people))
    owners = generator.permutation(owners)
    vectors = centers[owners] + 0.5 * generator.standard_normal((len(owners), dimension))
    queries = centers + 0.5 * generator.standard_normal((people, dimension))
    labels = [f"person {owner}" for owner in owners]
    return vectors.astype(np.float32), labels, queries.astype(np.float32)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def filled(precision="float32", **settings):
    vectors, labels, queries = gallery(**settings)
    index = EmbeddingIndex(precision)
    index.add(vectors, labels, [f"{row}.jpg" for row in range(len(labels))])
    return index, vectors, labels, queries


def brute_force(vectors, labels, queries, aggregation):
    """For each query all (label, score, row), nearest first, by plain loops."""
    vectors, queries = unit(vectors.astype(np.float64)), unit(queries.astype(np.float64))
    found = []
    for query in queries:
        answers = []
        for label in sorted(set(labels)):
            rows = [row for row, other in enumerate(labels) if other == label]
            if aggregation == "max":
                score, row = max((float(vectors[row] @ query), row) for row in rows)
            else:
                mean = np.mean([vectors[row] for row in rows], axis=0)
                score, row = float(mean @ query / np.linalg.norm(mean)), None
            answers.append((label, score, row))
        found.append(sorted(answers, key=lambda answer: -answer[1]))
    return found


@pytest.mark.parametrize("aggregation", ["max", "mean"])
@pytest.mark.parametrize("top_k", [1, 7, 1000])
def test_search_by_label_equals_brute_force(aggregation, top_k, monkeypatch):
    monkeypatch.setattr(vector_store, "_PART_ROWS", 16)
    monkeypatch.setattr(vector_store, "_BLOCK_ROWS", 64)
    monkeypatch.setattr(vector_store, "_QUERIES", 11)
    index, vectors, labels, queries = filled()
    matches = index.search(queries, top_k, aggregation)
    for query, answers in enumerate(brute_force(vectors, labels, queries, aggregation)):
        answers = answers[:top_k]
        assert matches.labels[query] == [label for label, _, _ in answers]
        np.testing.assert_allclose(matches.scores[query], [score for _, score, _ in answers], atol=1e-5)
        expected_files = [None if row is None else f"{row}.jpg" for _, _, row in answers]
        assert matches.files[query] == expected_files
    assert matches.known is None


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-6), ("float16", 1e-3), ("int8", 1e-2)])
@pytest.mark.parametrize("queries", [1, 5, 9, 300])
def test_nearest_equals_a_full_matrix_in_every_precision(precision, tolerance, queries):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(5000, 48, generator=generator)
    asked = torch.randn(queries, 48, generator=generator)
    index = EmbeddingIndex(precision)
    for part in vectors.split(700):
        index.add(part, ["somebody"] * len(part))
    scores, rows = index.nearest(asked, 10)
    exact = torch.nn.functional.normalize(asked.double()) @ torch.nn.functional.normalize(vectors.double()).T
    np.testing.assert_allclose(scores, exact.gather(1, torch.from_numpy(rows)), atol=tolerance)
    np.testing.assert_allclose(scores, exact.topk(10).values, atol=tolerance)
    assert all(len(set(found)) == 10 for found in rows.tolist())


@pytest.mark.parametrize("multiplies_integers", [True, False])
def test_int8_finds_the_same_with_and_without_integer_instructions(multiplies_integers, monkeypatch):
    monkeypatch.setattr(vector_store, "_MULTIPLIES_INTEGERS", multiplies_integers)
    index, vectors, _, queries = filled("int8")
    scores, rows = index.nearest(queries, 3)
    expected = unit(queries) @ unit(vectors).T
    np.testing.assert_allclose(scores, np.take_along_axis(expected, rows, 1), atol=0.02)
    assert (rows[:, 0] == expected.argmax(1)).mean() > 0.9


def test_memory_is_a_half_and_a_quarter():
    vectors = torch.randn(100, 512)
    sizes = {}
    for precision in ("float32", "float16", "int8"):
        index = EmbeddingIndex(precision)
        index.add(vectors, ["a"] * 100)
        sizes[precision] = index.nbytes
    assert sizes == {"float32": 100 * 2048, "float16": 100 * 1024, "int8": 100 * (512 + 4)}


def test_one_label_with_nearly_all_vectors_does_not_hide_the_others():
    index = EmbeddingIndex()
    index.add(np.tile([[1.0, 0.0]], (500, 1)), ["Crowd"] * 500)
    index.add([[0.6, 0.8], [0.0, 1.0]], ["Ann", "Bob"])
    matches = index.search([[1.0, 0.1]], 3)
    assert matches.labels == [["Crowd", "Ann", "Bob"]]


def test_adding_one_by_one_equals_adding_together():
    vectors, labels, queries = gallery()
    together, single = EmbeddingIndex("int8"), EmbeddingIndex("int8")
    together.add(vectors, labels)
    for vector, label in zip(vectors, labels, strict=True):
        single.add(vector, [label])
    assert single.names == together.names
    np.testing.assert_array_equal(single.nearest(queries)[1], together.nearest(queries)[1])


def test_a_removed_person_is_gone_and_the_others_stay():
    index, vectors, labels, queries = filled()
    gone = labels[3]
    assert index.remove(gone) == labels.count(gone)
    kept = [row for row, label in enumerate(labels) if label != gone]
    rest = EmbeddingIndex()
    rest.add(vectors[kept], [labels[row] for row in kept], [f"{row}.jpg" for row in kept])
    ours, expected = index.search(queries, 5), rest.search(queries, 5)
    assert ours.labels == expected.labels and ours.files == expected.files
    np.testing.assert_allclose(ours.scores, expected.scores, atol=1e-6)
    with pytest.raises(InputError, match=f"the index has no label '{gone}'"):
        index.remove(gone)
    for name in index.names:
        index.remove(name)
    with pytest.raises(InputError, match="the index is empty"):
        index.search(queries)
    index.add(vectors[:1], ["back"])
    assert index.search(queries[:1], 1).labels == [["back"]]


def test_merging_joins_people_of_one_name_and_converts():
    vectors, labels, queries = gallery()
    half = len(labels) // 2
    whole, first, second = EmbeddingIndex(), EmbeddingIndex(), EmbeddingIndex("float16")
    whole.add(vectors, labels)
    first.add(vectors[:half], labels[:half])
    second.add(vectors[half:], labels[half:])
    first.merge(second)
    assert first.names == whole.names and first.labels == labels
    assert first.search(queries, 1, "mean").labels == whole.search(queries, 1, "mean").labels
    other = EmbeddingIndex(model="another/model")
    other.add(vectors, labels)
    second.origin = Origin("some/model")
    with pytest.raises(InputError, match="model is some/model, not another/model"):
        second.merge(other)
    # weights tell more than names: another folder's copy, other weights in one folder
    second.origin, other.origin = Origin("some/model", "a" * 64), Origin("another/model", "a" * 64)
    second.merge(other)
    assert len(second) == len(labels) - half + len(labels)
    other.origin = Origin("some/model", "b" * 64)
    with pytest.raises(InputError, match="weights are a{12} .* the model's are b{12}"):
        second.merge(other)
    assert len(second) == len(labels) - half + len(labels), "nothing was added"


def test_an_empty_index_takes_the_model_of_what_is_merged_into_it():
    index, *_ = filled()
    index.origin = Origin("some/model", "a" * 64, {"mirror": "sum"})
    empty = EmbeddingIndex()
    empty.merge(index)
    assert empty.origin == index.origin and len(empty) == len(index)


@pytest.mark.parametrize("aggregation", ["max", "mean"])
def test_strangers_are_rejected_at_the_chosen_rate(aggregation):
    index, _, _, queries = filled(people=300, dimension=24, seed=1)
    generator = np.random.default_rng(2)
    strangers = generator.standard_normal((4000, 24))
    stored = index.calibrate(strangers[:1000], aggregation, data="random directions")
    assert list(stored["fpir"]) == ["0.1", "0.01"]
    # exactly at the rate on the strangers it was set on, about there on others
    assert index.search(strangers[:1000], 1, aggregation, fpir=0.01).known.sum() == 10
    assert index.search(strangers[1000:], 1, aggregation, fpir=0.1).known.mean() == pytest.approx(0.1, abs=0.03)
    members = index.search(queries, 1, aggregation, fpir=0.01)
    assert members.known.mean() > 0.8
    with pytest.raises(InputError, match=r"no threshold at FPIR 0.002 for the aggregation .*: 0.1, 0.01"):
        index.search(queries, 1, aggregation, fpir=0.002)
    index.remove(index.names[0])
    with pytest.raises(InputError, match="none; calibrate"):
        index.search(queries, fpir=0.01)


@pytest.mark.parametrize("aggregation", ["max", "mean"])
def test_calibration_among_the_labels_themselves_searches_each_without_its_own(aggregation):
    index, vectors, labels, _ = filled(people=60)
    index.calibrate(aggregation=aggregation, fpir=[0.1])
    best = []
    for row, label in enumerate(labels):
        others = [place for place, other in enumerate(labels) if other != label]
        [answers] = brute_force(vectors[others], [labels[place] for place in others], vectors[[row]], aggregation)
        best.append(answers[0][1])
    false_positives = (np.array(best) >= index.threshold(0.1, aggregation)).mean()
    assert false_positives <= 0.1 < false_positives + 1 / len(best) + 1e-9


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_a_saved_index_answers_the_same(precision, tmp_path):
    index, vectors, labels, queries = filled(precision)
    index.origin = Origin("outputs/mobilefacenet", "a" * 64, {"mirror": "sum"})
    index.calibrate(fpir=[0.1])
    index.save(tmp_path / "index")
    index.save(tmp_path / "index")
    assert {path.name for path in (tmp_path / "index").iterdir()} == {
        *("embeddings.safetensors", "labels.arrow", "files.arrow", "index.json")
    }
    loaded = EmbeddingIndex.load(tmp_path / "index")
    ours, expected = loaded.search(queries, 5, fpir=0.1), index.search(queries, 5, fpir=0.1)
    assert ours.labels == expected.labels and ours.files == expected.files
    np.testing.assert_array_equal(ours.scores, expected.scores)
    np.testing.assert_array_equal(ours.known, expected.known)
    assert loaded.origin == index.origin and loaded.names == index.names
    loaded.check_origin(Origin("a/copy", "a" * 64), 32)
    for origin, dimension, words in (
        (Origin("outputs/mobilefacenet", "b" * 64), 32, "weights are a{12} .outputs/mobilefacenet.*b{12}"),
        (Origin(None, "a" * 64, {"mirror": "none"}), 32, "mirror is 'sum', the model's is 'none'"),
        (Origin("outputs/mobilefacenet"), 31, "have 32 dimensions, the model's have 31"),
        (Origin("another/model"), 32, "model is outputs/mobilefacenet, not another/model"),
    ):
        with pytest.raises(InputError, match=f"made by another model: .*{words}"):
            loaded.check_origin(origin, dimension)
    loaded.add(vectors, labels)
    assert len(loaded) == 2 * len(labels)


def test_an_index_of_the_first_edition_is_read(tmp_path):
    index, _, labels, queries = filled("int8")
    folder = index.save(tmp_path / "index")
    table = pa.table({"label": labels, "file": pa.array(index.files, pa.string())})
    pq.write_table(table, folder / "labels.parquet")
    for file in ("labels.arrow", "files.arrow"):
        (folder / file).unlink()
    ours, expected = EmbeddingIndex.from_pretrained(folder).search(queries, 5), index.search(queries, 5)
    assert ours.labels == expected.labels and ours.files == expected.files
    EmbeddingIndex.from_pretrained(folder).save(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(INDEX_FILES)


def test_labels_are_found_however_they_came(tmp_path, monkeypatch):
    monkeypatch.setattr(text_column, "_CHUNK", 7)
    column, expected, gone = TextColumn(), {}, set()
    generator = np.random.default_rng(0)
    for step in range(60):
        texts = [f"name {number}" for number in generator.integers(0, 90, 11)]
        for text, place in zip(texts, column.number(texts, gone), strict=True):
            assert expected.setdefault(text, place) == place and column.take(np.array([place])) == [text]
        if step % 10 == 9:
            gone.add(expected.pop(texts[0]))
    assert len(column) == len(expected) + len(gone)
    assert {text: column.find(text) for text in expected} == expected and column.find("nobody") is None
    write_texts(column.arrow(), tmp_path / "texts.arrow")
    read = TextColumn(read_texts(tmp_path / "texts.arrow"))
    for _ in range(20):  # by looking through them, then by their hashes
        assert read.find("nobody") is None and read.find("name 7") is not None
    assert read.arrow().to_pylist() == column.arrow().to_pylist()


def test_numbers_that_are_not_finite_are_in_no_index(tmp_path):
    index, *_ = filled()
    folder = index.save_pretrained(tmp_path / "index")
    tensors = load_file(folder / "embeddings.safetensors")
    tensors["embeddings"][3, 1] = float("nan")
    save_file(tensors, folder / "embeddings.safetensors")
    with pytest.raises(InputError, match="index is not a complete index: an embedding is not finite"):
        EmbeddingIndex.from_pretrained(folder)
    index.save_pretrained(folder)
    description = json.loads((folder / "index.json").read_text())
    thresholds = {"best": {"data": "", "strangers": 9, "labels": 9, "fpir": {"0.1": "nan"}}}
    (folder / "index.json").write_text(json.dumps(description | {"thresholds": thresholds}))
    with pytest.raises(InputError, match="a threshold that is not finite"):
        EmbeddingIndex.from_pretrained(folder)


def test_nothing_of_the_disk_is_in_an_index(tmp_path):
    for path in ("/home/ann/models/faces", "models--ann--faces/snapshots/abc", str(tmp_path), "~/faces"):
        assert EmbeddingIndex(model=path).model is None
    assert EmbeddingIndex(model="ann/faces@v1").model == "ann/faces@v1"
    index = EmbeddingIndex()
    index.add(np.eye(3), ["a", "b", "c"], ["/home/ann/photos/x/1.jpg", "/home/ann/photos/y/2.jpg", None])
    assert _relative(index.files) == ["x/1.jpg", "y/2.jpg", None] and _relative(["a/1.jpg"]) == ["a/1.jpg"]


def test_a_name_that_is_not_utf8_is_kept_readable(tmp_path):
    index = EmbeddingIndex()
    index.add(np.eye(2), ["Ren\udce9", "b"], ["Ren\udce9/1.jpg", None])
    assert EmbeddingIndex.load(index.save(tmp_path / "index")).files == [r"Ren\xe9/1.jpg", None]
    assert index.names == [r"Ren\xe9", "b"]


def test_the_old_names_of_aggregations_are_accepted():
    index, _, _, queries = filled()
    for old, new in (("best", "max"), ("mean", "mean")):
        expected = index.search(queries, 3, new).scores
        with pytest.warns(FutureWarning, match="aggregation="):
            np.testing.assert_array_equal(index.search(queries, 3, template=old).scores, expected)
    with pytest.warns(FutureWarning):
        assert list(index.calibrate(aggregation="best", fpir=[0.1])["fpir"]) == ["0.1"]
    assert list(index.thresholds) == ["max"]
    assert repr(index).startswith("EmbeddingIndex(") and "40 labels, dimension=32" in repr(index)


def test_saving_never_replaces_what_is_no_index(tmp_path):
    (tmp_path / "photo.jpg").write_text("dear to somebody")
    index, *_ = filled()
    with pytest.raises(InputError, match="is not an index"):
        index.save(tmp_path)
    assert (tmp_path / "photo.jpg").read_text() == "dear to somebody"
    (index.save(tmp_path / "index") / "photo.jpg").write_text("dear to somebody")
    with pytest.raises(InputError, match="not an index .contains photo.jpg"):
        index.save(tmp_path / "index")
    with pytest.raises(InputError, match="empty"):
        EmbeddingIndex().save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_runs_that_save_into_one_folder_at_once_leave_one_index_whole(tmp_path):
    indexes = [filled(people=people)[0] for people in (3, 5, 7, 9)]
    for _ in range(10):
        folder = tmp_path / "index"
        shutil.rmtree(folder, ignore_errors=True)
        start = threading.Barrier(len(indexes))

        def save(index, start=start, folder=folder):
            start.wait()
            index.save(folder)

        with ThreadPoolExecutor(len(indexes)) as pool:
            list(pool.map(save, indexes))
        assert len(EmbeddingIndex.load(folder)) in {len(index) for index in indexes}
        assert [path.name for path in tmp_path.iterdir()] == ["index"], "nothing is left behind"


def test_damaged_files_are_one_line(tmp_path):
    index, *_ = filled("int8")
    folder = index.save(tmp_path / "index")
    with pytest.raises(InputError, match="nobody/nothing"):
        EmbeddingIndex.load("nobody/nothing")
    for name, content, message in (
        ("embeddings.safetensors", b"half a fi", "not a complete index"),
        ("labels.arrow", b"ARROW1", "not a complete index"),
        ("files.arrow", (folder / "labels.arrow").read_bytes(), "40 files for"),
        ("index.json", b"{", "index.json is not JSON"),
    ):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        with pytest.raises(InputError, match=message) as error:
            EmbeddingIndex.load(folder)
        assert "\n" not in str(error.value)
        (folder / name).unlink()
        with pytest.raises(InputError, match=f"{name} is missing"):
            EmbeddingIndex.load(folder)
        (folder / name).write_bytes(whole)
    description = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(description | {"precision": "float32"}))
    with pytest.raises(InputError, match="not \\(N, D\\) float32"):
        EmbeddingIndex.load(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1.0, 0.0]], ["a", "b"]), "1 embeddings, 2 labels"),
        (([[1.0, 0.0, 0.0]], ["a"]), "vectors of 2 dimensions, these have 3"),
        (([[1.0, 0.0], [0.0, 0.0]], ["a", "b"]), "1 of 2 embeddings are zero or not finite, the first: row 1"),
        (([[1.0, np.nan]], ["a"]), "not finite"),
        (([[1.0, 0.0]], [7]), "non-empty text, got 7"),
        (([[1.0, 0.0], [0.0, 1.0]], "xy"), "not the text 'xy'"),
        (("a.jpg", ["a"]), "embeddings are numbers .N, D., not str"),
        (([[[1.0]]], ["a"]), "the shape"),
    ],
)
def test_what_cannot_be_added_is_refused_whole(arguments, message):
    index = EmbeddingIndex()
    index.add([[0.0, 1.0]], ["first"])
    with pytest.raises(InputError, match=message):
        index.add(*arguments)
    assert len(index) == 1 and index.names == ["first"]


def test_what_cannot_be_asked_is_refused():
    index, _, _, queries = filled()
    for arguments, message in (
        ((queries, 0), "top_k must be at least 1"),
        ((queries, 1, "median"), "expected 'max' or 'mean'"),
        ((queries[:, :3],), "these have 3"),
    ):
        with pytest.raises(InputError, match=message):
            index.search(*arguments)
    with pytest.raises(InputError, match="expected one of float32"):
        EmbeddingIndex("float8")
    with pytest.raises(InputError, match="4 strangers are too few for a rate of 0.1"):
        index.calibrate(queries[:4], fpir=[0.1])


def test_faiss_takes_the_same_rows():
    pytest.importorskip("faiss")
    index, vectors, _, queries = filled()
    scores, rows = index.nearest(queries, 5)
    found_scores, found_rows = index.to_faiss().search(unit(queries), 5)
    assert (found_rows == rows).all()
    np.testing.assert_allclose(found_scores, scores, atol=1e-6)
    inexact = index.to_faiss("HNSW16").search(unit(queries), 1)[1]
    assert (inexact[:, 0] == rows[:, 0]).mean() > 0.9
    with pytest.raises(InputError, match="faiss cannot make 'IVF4096,Flat'"):
        index.to_faiss("IVF4096,Flat")
    with pytest.raises(InputError, match="faiss cannot make 'Round'"):
        index.to_faiss("Round")
    with pytest.raises(InputError, match="empty"):
        EmbeddingIndex().to_faiss()


def test_an_index_knows_its_labels_and_takes_a_precision_when_loaded(tmp_path):
    index = EmbeddingIndex()
    index.add(torch.eye(3), ["Tony", "Ann", "Tony"])
    assert "Tony" in index and "Bob" not in index
    index.save_pretrained(tmp_path / "index")
    for dtype in ("float16", torch.float16):
        half = EmbeddingIndex.from_pretrained(tmp_path / "index", dtype=dtype, device="auto")
        assert half.precision == "float16" and half.nbytes == index.nbytes / 2
        assert half.search(torch.eye(3)[1], top_k=1).labels == [["Ann"]]
    for options, line in (
        ({"device": "cuda"}, "searched on the CPU"),
        ({"dtype": "float64"}, "keeps float32, float16 or int8"),
        ({"revision": "v1"}, "is a folder; a revision"),
    ):
        with pytest.raises(InputError, match=line):
            EmbeddingIndex.from_pretrained(tmp_path / "index", **options)


def test_approximate_search_answers_as_the_exact_one(tmp_path):
    pytest.importorskip("faiss")
    vectors, labels, queries = gallery(people=3000, dimension=32, most=8)
    index = EmbeddingIndex("int8")
    index.add(vectors, labels, [f"{row}.jpg" for row in range(len(labels))])
    exact = index.search(queries[:500], 3)
    index.build_approximate(probes=16, code_bytes=16)
    found = index.search(queries[:500], 3)
    same = [ours[0] == expected[0] for ours, expected in zip(found.labels, exact.labels, strict=True)]
    assert np.mean(same) > 0.97
    assert found.files[0][0].endswith(".jpg") and (np.diff(found.scores, axis=1) <= 0).all()
    gone = found.labels[0][0]
    index.remove(gone)
    index.add(queries[:1], ["somebody new"])
    matches = index.search(queries[:1], 5)
    assert matches.labels[0][0] == "somebody new" and gone not in matches.labels[0]
    loaded = EmbeddingIndex.from_pretrained(index.save(tmp_path / "index"))
    ours, expected = loaded.search(queries[:100], 3), index.search(queries[:100], 3)
    assert ours.labels == expected.labels and ours.files == expected.files
    loaded.drop_approximate()
    assert loaded.search(queries[:1], 1).labels[0] == ["somebody new"]
    tensors = load_file(tmp_path / "index" / "approximate.safetensors")
    for name, value in (("lists", 10_000), ("centers", float("nan"))):
        broken = tensors[name].clone()
        broken.view(-1)[0] = value
        save_file(tensors | {name: broken}, tmp_path / "index" / "approximate.safetensors")
        with pytest.raises(InputError, match="not a complete index: approximate.safetensors"):
            EmbeddingIndex.from_pretrained(tmp_path / "index")
    (tmp_path / "index" / "approximate.safetensors").unlink()
    with pytest.raises(InputError, match="approximate.safetensors is missing"):
        EmbeddingIndex.from_pretrained(tmp_path / "index")
    with pytest.raises(InputError, match="code_bytes must divide the dimension 32, got 5"):
        index.build_approximate(code_bytes=5)
    with pytest.raises(InputError, match="approximate from 10,000 on"):
        filled()[0].build_approximate()
