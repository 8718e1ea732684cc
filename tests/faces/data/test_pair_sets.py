"""insightface's .bin: read to the byte, and nothing of it run."""

import io
import os
import pickle
import struct
import tracemalloc
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from hfembed.errors import InputError
from hfembed.faces.data.pair_sets import read_pair_set

REAL = Path(__file__).parents[4] / "shared/data/faces_bin/small_lfw.bin"


def jpeg(shade):
    file = io.BytesIO()
    Image.new("RGB", (112, 112), (shade, 0, 255 - shade)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def crops():
    return [jpeg(shade) for shade in range(24)]


def write(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("as_array", [False, True])
def test_crops_answers_and_folds(tmp_path, crops, protocol, as_array):
    stored = [np.frombuffer(crop, np.uint8).copy() for crop in crops] if as_array else crops
    same = [number % 3 == 0 for number in range(12)]
    read = read_pair_set(write(tmp_path / "lfw.bin", (stored, same), protocol))
    images = read.faces.cast_column("image", datasets.Image(decode=False))["image"]
    assert [image["bytes"] for image in images] == crops
    assert read.pairs.same.tolist() == same
    assert (read.pairs.file_a[0], read.pairs.file_b[11]) == ("pair_0001_a", "pair_0012_b")
    # as scikit-learn's KFold without shuffling, which insightface takes
    assert read.pairs.fold.tolist() == [0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert np.shape(read.landmarks["pair_0001_a"]) == (5, 2)


@pytest.mark.data
@pytest.mark.skipif(not REAL.exists(), reason="needs ../shared/data/faces_bin")
def test_a_real_file():
    read = read_pair_set(REAL)
    assert len(read.pairs) == 10
    assert all(image.size == (112, 112) for image in read.faces["image"])


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.attack
@pytest.mark.parametrize(
    "attack",
    [
        lambda mark: Runs(os.system, f"touch {mark}"),
        lambda mark: Runs(eval, f"open({str(mark)!r}, 'w')"),
        lambda mark: Runs(np.fromfile, str(mark)),
        lambda mark: Runs(np.save, str(mark), 1),
    ],
)
def test_what_a_file_names_is_not_run(tmp_path, crops, attack):
    mark = tmp_path / "mark.npy"
    path = write(tmp_path / "lfw.bin", ([*crops[:-1], attack(mark)], [True] * 12))
    with pytest.raises(InputError, match=r"it names \S+, which no set of pairs needs"):
        read_pair_set(path)
    assert not mark.exists()


@pytest.mark.attack
def test_an_entry_far_out_takes_no_memory(tmp_path):
    path = tmp_path / "lfw.bin"
    path.write_bytes(b"\x80\x04]r" + struct.pack("<I", 2**31 - 1) + b"]\x86.")
    with pytest.raises(InputError, match="0 crops and 0 answers"):
        read_pair_set(path)


@pytest.mark.attack
def test_what_claims_memory_or_time_is_refused(tmp_path, crops):
    nested = b"K\x01" + b"q\x01h\x01\x86" * 40  # 2^40 numbers, were it walked through
    array = b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01" + nested + b"cnumpy\ndtype\n)R\x89C\x01ytb"
    for content, said in (
        (b"\x80\x05\x96" + struct.pack("<Q", 3 << 30) + b".", "is damaged"),
        (b"\x80\x05\x96" + struct.pack("<Q", 1) + b"x.", "byte 2 is BYTEARRAY8"),
        (b"\x80\x04}" + nested + b"K\x01s.", "byte 2 is EMPTY_DICT"),
        (b"\x80\x04" + array + b".", "an array of something else than bytes"),
    ):
        (tmp_path / "lfw.bin").write_bytes(content)
        tracemalloc.start()
        with pytest.raises(InputError, match=said) as refused:
            read_pair_set(tmp_path / "lfw.bin")
        assert len(str(refused.value)) < 1000
        assert tracemalloc.get_traced_memory()[1] < 2e6
        tracemalloc.stop()
    with pytest.raises(InputError, match="it repeats them"):
        read_pair_set(write(tmp_path / "lfw.bin", ([crops[0]] * 24, [True] * 12)))


def test_what_is_wrong_is_one_line(tmp_path, crops):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_pair_set(tmp_path / "absent.bin")
    for content, said in (
        ((crops, [True] * 11), "24 crops and 11 answers"),
        ((crops[:4], [True] * 2), "4 crops and 2 answers"),
        ((crops, [1] * 12), "answer 0 is not a bool but int"),
        (([1] * 24, [True] * 12), "crop 0 is not bytes but int"),
        (([np.zeros(4, np.float32)] * 24, [True] * 12), "an array of something else than bytes"),
        ("text", "expected a list of crops"),
    ):
        with pytest.raises(InputError, match=said):
            read_pair_set(write(tmp_path / "lfw.bin", content))
    whole = write(tmp_path / "whole.bin", (crops, [True] * 12)).read_bytes()
    for end in range(0, len(whole), 997):
        (tmp_path / "cut.bin").write_bytes(whole[:end])
        with pytest.raises(InputError):
            read_pair_set(tmp_path / "cut.bin")
