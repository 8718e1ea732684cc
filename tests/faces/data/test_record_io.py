"""RecordIO: what an independent writer wrote is read to the bit, and what is damaged is named with its offset."""

import io
import pickle
import struct

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hfembed.errors import InputError
from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.data.face_sources import open_source
from hfembed.faces.data.faces import FaceSource, load_faces
from hfembed.faces.data.lazy_faces import LazyFaces
from hfembed.faces.data.mapped_files import PackedPhotos
from hfembed.faces.data.record_io import RecordIO, read_record_images
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor, template_for_size
from tests.faces.data.conftest import encode
from tests.faces.data.record_files import MAGIC, packed, record, write_records
from tests.fork_server import REPOSITORY, ScriptRun

COUNTS = [3, 1, 2]


@pytest.fixture
def people():
    colors = iter(range(0, 60, 10))
    return [[encode(next(colors), (112, 112)) for _ in range(count)] for count in COUNTS]


def stored(faces):
    return [row["image"]["bytes"] for row in faces.cast_column("image", datasets.Image(decode=False))]


@pytest.mark.parametrize("options", [{}, {"ranges": False}, {"arrays": True}, {"index": False}, {"last_first": True}])
def test_photos_and_people_to_the_bit(tmp_path, people, options):
    folder = write_records(tmp_path / "set", people, **options)
    for source in (folder, folder / "train.rec"):
        faces = load_faces(source)
        assert faces.features["label"].names == ["0", "1", "2"]
        assert faces["label"][:] == [0, 0, 0, 1, 2, 2]
        assert stored(faces) == [photo for photos in people for photo in photos]
    assert len(set(faces["file"][:])) == 6 and faces["file"][0].startswith("0/")
    assert np.array(faces[0]["landmarks"]) == pytest.approx(np.array(template_for_size(112, 112)))
    assert len(load_faces(folder, min_photos=2, max_photos=2)) == 4
    assert next(iter(open_source(folder, streaming=True)))["image"].size == (112, 112)


def test_records_in_several_parts(tmp_path):
    # the magic number inside of a photo at a multiple of four, at another place, twice, at the end, and in the header
    datas = [
        b"a" * 30,
        b"1234" + MAGIC + b"567",
        b"123" + MAGIC + b"4567",
        MAGIC * 2,
        b"12345678" + MAGIC,
        b"",
        packed(1.0, 0xCED7230A, b"photo" + MAGIC),
    ]
    (tmp_path / "a.rec").write_bytes(b"".join(map(record, datas)))
    records = RecordIO(tmp_path / "a.rec")
    assert list(records) == datas and [records[n] for n in (6, 3, 1)] == [datas[6], datas[3], datas[1]]
    assert records.num_parts.tolist() == [1, 2, 1, 3, 2, 1, 2]


def test_a_photo_in_several_parts(tmp_path, people):
    people[1][0] += bytes(-len(people[1][0]) % 4) + MAGIC + b"behind the photo"
    folder = write_records(tmp_path / "set", people)
    assert RecordIO(folder / "train.rec").num_parts.max() == 2
    faces = load_faces(folder)
    assert stored(faces) == [photo for photos in people for photo in photos]
    lazy = LazyFaces(faces, FaceImageProcessor(size=112))
    assert [lazy[0, row]["label"] for row in range(6)] == [0, 0, 0, 1, 2, 2]


def test_ranges_and_labels_as_they_are_written(tmp_path, people):
    images = read_record_images(write_records(tmp_path / "set", people) / "train.rec")
    assert images.keys.tolist() == [1, 2, 3, 4, 5, 6] and images.shape == (112, 112)
    assert images.ranges.tolist() == [[7, 1, 4], [8, 4, 5], [9, 5, 7]]
    assert [images.encoded(row) for row in (5, 0)] == [people[2][1], people[0][0]]


@pytest.mark.parametrize("index", [True, False])
def test_a_list_of_im2rec_says_whose_photos_to_take(tmp_path, people, index, caplog):
    folder = write_records(tmp_path / "set", people, ranges=False, index=index, arrays=True)
    lines = [(4, 8, "x/b 1.jpg"), (0, 8, "x/a.jpg"), (3, 5, 'y/"c.jpg'), (5, 5, "y/d.jpg"), (77, 5, "y/e.jpg")]
    (folder / "train.lst").write_text("".join(f"{id}\t{label}.000000\t7.5\t{name}\n" for id, label, name in lines))
    faces = load_faces(folder / "train.lst")
    photos = [photo for photos in people for photo in photos]
    assert stored(faces) == [photos[number] for number in (3, 5, 0, 4)]
    assert faces["file"][:] == ['5/"c.jpg', "5/d.jpg", "8/a.jpg", "8/b 1.jpg"]
    assert faces.features["label"].names == ["5", "8"] and faces["label"][:] == [0, 0, 1, 1]
    assert "lists 5 images, train.rec has 6: the 4 that both have" in caplog.text
    assert len(load_faces(folder)) == 6, "the folder means the records as they are"
    for content, said in (
        ("", "is not a list of im2rec"),
        ("0\tAnn/1.jpg\t5\n", "is not a list of im2rec"),  # insightface's own lists
        ("0\ta.jpg\n", "is not a list of im2rec"),
        ("0\t1\ta.jpg\n1\t1\n", "is not a list of im2rec"),
        ("0\t1\ta.jpg\n0\t1\tb.jpg\n", "lists 0 twice"),
        ("90\t1\ta.jpg\n", "lists none of the 6 images"),
        ("0\t1.5\ta.jpg\n", "has label 1.5"),
        (f"0\t1\t{50_000 * 'a'}\n", "is larger than a list"),
    ):
        (folder / "train.lst").write_text(content)
        with pytest.raises(InputError, match=said) as error:
            load_faces(folder / "train.lst")
        assert "\n" not in str(error.value)


def change(file, place, new):
    content = bytearray(file.read_bytes())
    content[place : place + len(new)] = new
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "train.rec").write_bytes(b""), "train.rec is empty"),
        (lambda folder: change(folder / "train.rec", 40, b"x"), "damaged at byte 40: expected RecordIO's magic"),
        (lambda folder: change(folder / "train.rec", 44, b"\xff\xff\xff\x1f"), "cut short: the record at byte 40"),
        (lambda folder: change(folder / "train.rec", 47, b"\x40"), "at byte 40: a part of kind 2 after"),
        (lambda folder: change(folder / "train.rec", 47, b"\xe0"), "damaged at byte 40: a part of kind 7"),
        (lambda folder: change(folder / "train.rec", 52, struct.pack("<f", 1.5)), "byte 40 has label 1.5"),
        (lambda folder: change(folder / "train.rec", 52, struct.pack("<f", np.nan)), "byte 40 has label nan"),
        (lambda folder: change(folder / "train.rec", 52, struct.pack("<f", 3)), "label 3; .*below 3 as property says"),
        (lambda folder: change(folder / "train.rec", 48, b"\xff\xff\xff\xff"), "with 4294967295 labels"),
        (lambda folder: change(folder / "train.rec", 32, struct.pack("<f", 8)), r"record 0 says .* \[8, 10\)"),
        (lambda folder: (folder / "train.idx").write_text("0\t0\n1\t44\n"), "line 2 names byte 44, where no record"),
        (lambda folder: (folder / "train.idx").write_text("0\t0\n1\t40\n"), "lists 2 records, and train.rec has 10"),
        (lambda folder: (folder / "train.idx").write_text("0 0\n"), "is not an index of RecordIO"),
        (lambda folder: (folder / "train.idx").write_text("0\t0\n" * 999), "larger than an index of the 10 records"),
        (lambda folder: (folder / "property").write_text("3"), "expected 'people,height,width'"),
    ],
)
def test_damage_is_one_line(tmp_path, people, damage, said):
    folder = write_records(tmp_path / "set", people)
    damage(folder)
    with pytest.raises(InputError, match=said) as error:
        load_faces(folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.attack
def test_any_cut_or_flipped_byte_is_an_error_or_other_values(tmp_path, people):
    file = write_records(tmp_path / "set", [[b"abc", b"defgh"], [b"ij"]], size=None) / "train.rec"
    whole = file.read_bytes()
    for place in range(len(whole)):
        for content in (whole[:place], whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :]):
            file.write_bytes(content)
            try:
                images = read_record_images(file)
            except InputError:
                continue
            assert all(len(images.encoded(row)) == images.sizes[row] for row in range(len(images)))


@pytest.mark.parametrize("name", ["train.idx", "lfw.bin", "train.lst", "faces.h5", "faces.lmdb"])
def test_other_formats_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(InputError, match=f'{name}" is (the|a|an) '):
        load_faces(tmp_path / name)


def test_crops_without_a_cache(tmp_path, people, caplog):
    """The same samples as from crops kept on disk; also in a process that got the set pickled."""
    folder = write_records(tmp_path / "set", people)
    processor = FaceImageProcessor(size=56)
    faces = load_faces(folder)
    kept, lazy = AlignedFaces(faces, processor, margin=2), LazyFaces(faces, processor, margin=2)
    again = pickle.loads(pickle.dumps(lazy))
    assert lazy.shape == kept.shape == (3, 60, 60) and list(lazy.files) == kept.files
    assert torch.equal(lazy.pixels(), kept.pixels()) and torch.equal(again.pixels(3), kept.pixels(3))
    assert len(pickle.dumps(lazy)) < 20_000
    assert np.array_equal(lazy.labels, kept.labels) and lazy[0, 4]["label"] == 2
    people[1][0] = b"no photo"
    damaged = LazyFaces(load_faces(write_records(tmp_path / "damaged", people)), processor, margin=2)
    sample = damaged[0, 3]
    assert torch.equal(sample["pixels"], kept[0, 4]["pixels"]) and sample["label"] == 2
    assert "1/4.jpg: image: not an image" in caplog.text


def test_two_sets_of_records_are_two_sets_of_people_or_one(tmp_path, people):
    folders = [write_records(tmp_path / name, people) for name in "ab"]
    with pytest.raises(InputError, match="in more than one source"):
        load_faces(folders)
    both = load_faces([FaceSource(folder) for folder in folders], merge_people=True)
    assert len(both) == 12 and stored(both) == 2 * [photo for photos in people for photo in photos]
    lazy = LazyFaces(both, FaceImageProcessor(size=112))
    assert isinstance(lazy._crops.photos, PackedPhotos) and torch.equal(lazy[0, 1]["pixels"], lazy[0, 7]["pixels"])
    assert Image.open(io.BytesIO(people[0][1])).size == (112, 112)


@pytest.mark.multiprocess
def test_training_from_a_folder_of_records(tmp_path, people):
    """The same weights whether crops are kept on disk or not."""
    folder = write_records(tmp_path / "set", people)
    network = [
        "--trunk",
        "iresnet",
        "--trunk_arguments",
        "{depths: [1, 1], widths: [8, 16]}",
        "--embedding_size",
        "16",
    ]
    loop = ["--batch_size", "2", "--epochs", "2", "--min_photos", "1", "--image_size", "[32, 32]", "--trackers", "[]"]
    runs = {}
    for cache in ("yes", "no"):
        output = ["--output_dir", tmp_path / cache, "--crop_cache", cache, "--num_workers", "1"]
        arguments = ["--data_dir", folder, *network, *loop, *output]
        runs[cache] = ScriptRun(REPOSITORY / "scripts/train_face_embedder.py", arguments, tmp_path / f"{cache}.txt")
    for run in runs.values():
        code, printed = run.finish()
        assert code == 0, printed[-3000:]
        assert "6 photos of 3 people from set" in printed
    weights = [(tmp_path / cache / "model.safetensors").read_bytes() for cache in runs]
    assert weights[0] == weights[1]
