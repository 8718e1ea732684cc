"""`hfembed convert navec`: a small file made by hand, damaged ones, and navec's own reader where it is installed."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest

from hfembed import Word2VecModel
from hfembed.convert.fasttext import convert_fasttext
from hfembed.convert.navec import convert_navec
from hfembed.errors import InputError

WORDS = ["москва", "город", "<unk>"]
CODES = np.array([[0, 1], [1, 0], [2, 2]], dtype=np.uint8)
CENTROIDS = np.random.default_rng(0).normal(size=(2, 3, 3)).astype("<f4")


def write_navec(path, words=WORDS, protocol=1, codes=CODES, cut=0, meta=None, sparse=False):
    vocabulary = np.array([len(WORDS), 9, 8, 0], dtype="<u4").tobytes() + "\n".join(words).encode()
    quantized = np.array([len(codes), 6, 2, 3], dtype="<u4").tobytes() + codes.tobytes() + CENTROIDS.tobytes()
    meta = meta or json.dumps({"id": "test", "protocol": protocol}).encode()
    members = {"meta.json": meta, "vocab.bin": gzip.compress(vocabulary), "pq.bin": quantized[: len(quantized) - cut]}
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if sparse and name == "pq.bin":  # 4 GB of nothing
                content = b"1\n4000000000\n0\n".ljust(512, b"\0")
                info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "pq.bin"}
                info.pax_headers["GNU.sparse.realsize"] = "4000000000"
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_every_bit_arrives(tmp_path):
    convert_navec(write_navec(tmp_path / "navec.tar"), tmp_path / "out")
    model = Word2VecModel.from_pretrained(tmp_path / "out")
    assert model.vocabulary.words == WORDS and model.vocabulary.counts.tolist() == [9, 8, 0]
    expected = [np.concatenate([CENTROIDS[0, a], CENTROIDS[1, b]]) for a, b in CODES]
    np.testing.assert_array_equal(model.word_vectors(), expected)
    assert model.document_vectors(["Москва - город!"]).tolist() == model.vector(WORDS[:2]).mean(0, True).tolist()


def test_equal_to_navecs_reader(tmp_path):
    navec = pytest.importorskip("navec")
    theirs = navec.Navec.load(write_navec(tmp_path / "navec.tar"))
    ours = convert_navec(tmp_path / "navec.tar", tmp_path / "out")
    assert ours.similarity("москва", "город") == pytest.approx(theirs.sim("москва", "город"), abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"words": ["a"]}, "more than it can hold"),
        ({"words": list("abcdefgh")}, "8 words and 3 counts"),
        ({"protocol": 2}, "protocol 1"), ({"cut": 1}, "does not fit"),
        ({"meta": b"[" * 65_000}, "damaged, or no navec"), ({"sparse": True}, "its pq.bin is not a file"),
        ({"words": ["a", "", "b"]}, "is empty"), ({"words": ["a", "b", "a"]}, "in it twice"),
        ({"codes": CODES + 1}, "beyond the 3 centroids"), ({"codes": CODES[:2]}, "3 words do not fit 2"),
    ],
)  # fmt: skip
def test_damaged_files_are_named(tmp_path, changes, message):
    write_navec(tmp_path / "navec.tar", **changes)
    with pytest.raises(InputError, match=message):
        convert_navec(tmp_path / "navec.tar", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_files_are_named_by_what_they_are(tmp_path):
    with pytest.raises(InputError, match="a navec .tar: use hfembed convert navec"):
        convert_fasttext(write_navec(tmp_path / "navec.tar"), tmp_path / "out")
    (tmp_path / "page.tar").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(InputError, match="a tar archive"):
        convert_navec(tmp_path / "page.tar", tmp_path / "out")
