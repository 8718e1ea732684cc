"""Streams of shards: every photo once, in an order that depends on the keys alone, from any place on."""

import itertools
import json
import logging
import tempfile
from pathlib import Path

import datasets
import fsspec
import numpy as np
import pytest
from torch.utils.data import DataLoader

from hfembed.errors import InputError
from hfembed.faces.data.face_shards import write_shards
from hfembed.faces.data.face_stream import FaceStream, IterablePhotos, ShardRing, StreamBatchSampler, _Buffer
from hfembed.faces.data.faces import load_faces
from hfembed.faces.data.lazy_faces import LazyFaces
from hfembed.faces.data.shard_readers import JoinedShards, open_shards
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from tests.faces.data.conftest import encode, person_photos, write_folder
from tests.faces.data.record_files import write_records
from tests.faces.data.test_webdataset_tars import samples, write_shard

PEOPLE, EACH = 9, 11
PHOTOS = PEOPLE * EACH


@pytest.fixture
def records(tmp_path, monkeypatch):
    monkeypatch.setattr("hfembed.faces.data.shard_readers._RECORDS_PER_SHARD", 7)
    photos = [[encode(EACH * person + photo, size=(8, 8)) for photo in range(EACH)] for person in range(PEOPLE)]
    return write_records(tmp_path / "rec", photos, size=(8, 8))


@pytest.fixture(params=["records", "tars", "one tar", "parquet"])
def source(request, records, tmp_path):
    if request.param == "records":
        return records
    to = "parquet" if request.param == "parquet" else "webdataset"
    per_shard = 1000 if request.param == "one tar" else 10
    write_shards(load_faces(records), tmp_path / "shards", to, shard_photos=per_shard, seed=1, show_progress=False)
    return tmp_path / "shards"


def processor():
    return FaceImageProcessor(size=[8, 8])


def stream(source, batch_size, lanes=1, rank=0, ranks=1, buffer=20, seed=0, group=0):
    ring = ShardRing(open_shards(str(source)), seed, buffer, group) if isinstance(source, str | Path) else source
    shared = {"seed": seed, "rank": rank, "world_size": ranks, "lanes": lanes}
    sampler = StreamBatchSampler(ring.num_groups, batch_size, num_batches=12, group_size=max(1, group), **shared)
    return FaceStream(ring, processor(), 0, sampler), sampler


def read(dataset, sampler, epoch=0, start=0, workers=0):
    """Batches of (key, label, pixels as bytes)."""
    sampler.set_epoch(epoch, start)
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=workers, collate_fn=list)
    return [[(s["key"], s["label"], s["pixels"].numpy().tobytes()) for s in batch] for batch in loader]


def test_photos_and_labels_are_those_of_the_source(source):
    faces = load_faces(source)
    ring = ShardRing(open_shards(str(source)), 0, 20)
    assert (ring.num_photos, list(ring.people)) == (PHOTOS, faces.features["label"].names)
    (batch,) = read(*stream(source, PHOTOS))
    mapped = [LazyFaces(faces, processor())[0, row] for row in range(PHOTOS)]
    assert sorted((label, pixels) for _, label, pixels in batch) == sorted(
        (sample["label"], sample["pixels"].numpy().tobytes()) for sample in mapped
    )
    assert len({pixels for _, _, pixels in batch}) == PHOTOS


def test_records_without_an_index_are_found_by_reading_the_file(records, caplog):
    expected = read(*stream(records, 4))
    (records / "train.idx").unlink()
    assert read(*stream(records, 4)) == expected and "read once to find its records" in caplog.text


@pytest.mark.parametrize(("ranks", "lanes", "batch_size"), [(1, 1, 9), (1, 2, 3), (2, 1, 4), (2, 3, 5), (3, 2, 33)])
def test_no_photo_comes_twice_and_fewer_than_a_batch_are_left_out(source, ranks, lanes, batch_size):
    left = []
    orders = []
    for epoch in (0, 1, 2):
        keys = []
        for rank in range(ranks):
            dataset, sampler = stream(source, batch_size, lanes, rank, ranks)
            batches = read(dataset, sampler, epoch)
            assert len(batches) == len(sampler) == PHOTOS // (batch_size * ranks)
            assert all(len(batch) == batch_size for batch in batches)
            keys += [key for batch in batches for key, _, _ in batch]
        assert {key[0] for key in keys} == {epoch} and {key[2] for key in keys} == {0}
        numbers = [key[1] for key in keys]
        assert len(set(numbers)) == len(numbers), "none twice"
        left.append(set(range(PHOTOS)) - set(numbers))
        assert len(left[-1]) == PHOTOS % (batch_size * ranks), "fewer than a batch left out"
        orders.append(numbers)
    assert orders[0] != orders[1] != orders[2]
    assert not (set.intersection(*left) and PHOTOS % (batch_size * ranks) < 20), "others in each epoch"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_goes_on_where_it_stopped(source, workers):
    lanes = max(1, workers)
    whole = read(*stream(source, 4, lanes), epoch=3)  # all lanes by one process
    assert [key for batch in whole for key, _, _ in batch][:8] != sorted(key for b in whole for key, _, _ in b)[:8]
    for start in (1, 6, len(whole) - 1):
        assert read(*stream(source, 4, lanes), epoch=3, start=start, workers=workers) == whole[start:]
    dataset, sampler = stream(source, 4, lanes)  # the same object, epoch after epoch
    assert [read(dataset, sampler, epoch, workers=workers) for epoch in (3, 4, 3)][::2] == [whole, whole]


def test_resuming_decodes_nothing_that_was_used(source, monkeypatch):
    dataset, sampler = stream(source, 4)
    decoded = []
    crop = dataset.crop
    monkeypatch.setattr(dataset, "crop", lambda *photo: decoded.append(photo) or crop(*photo))
    assert len(read(dataset, sampler, start=20)) == len(sampler) - 20
    assert len(decoded) == 4 * (len(sampler) - 20)


def test_a_buffer_is_a_shuffle(records):
    for count, size in ((50, 1), (50, 7), (50, 50), (3, 10)):
        generator = np.random.default_rng(0)
        buffer = _Buffer(count, size, generator)
        drawn = [buffer.pop() for _ in range(count)]
        assert sorted(drawn) == list(range(count))
        assert all(place < turn + size for turn, place in enumerate(drawn))
    assert size > 1 and drawn != sorted(drawn)
    firsts = [_Buffer(100, 10, np.random.default_rng(seed)).pop() for seed in range(2000)]
    assert np.allclose(np.bincount(firsts, minlength=10), 200, atol=60), "each as often"


def test_broken_photos_are_replaced_by_the_next(tmp_path, caplog):
    members = samples(30)
    names = [name for name, _ in members]
    for broken in (3, 4, 17, 29):
        members[names.index(f"{broken:06d}.jpg")] = (f"{broken:06d}.jpg", b"not an image")
    write_shard(tmp_path / "a.tar", members)
    ring = ShardRing(open_shards(str(tmp_path / "a.tar"), 3), 5, 1)  # a buffer of one keeps the order of the shard
    with caplog.at_level(logging.WARNING):
        whole = read(*stream(ring, 6))
    keys = [key for batch in whole for key, _, _ in batch]
    assert len(keys) == 30 and "a.tar: 000003" in caplog.text
    order = [number for _, number, _ in keys]
    assert {3, 4, 17, 29}.isdisjoint(order)
    assert (order.count(5), order.count(18), order.count(0)) == (3, 2, 2)
    assert {key for key in keys if key[1] == 5} == {(0, 5, 2), (0, 5, 1), (0, 5, 0)}
    for start in range(5):
        assert read(*stream(ring, 6), start=start) == whole[start:]
    bad = [(f"{n}.{end}", b"1") for n in range(20) for end in ("jpg", "cls")]
    write_shard(tmp_path / "b.tar", bad)
    with pytest.raises(InputError, match="1000 photos up to .* cannot be used"):
        read(*stream(ShardRing(open_shards(str(tmp_path / "b.tar"), 3), 0, 5), 5))


@pytest.fixture
def bucket():
    """fsspec's own storage in memory stands for S3."""
    storage = fsspec.filesystem("memory")
    yield storage
    storage.rm("/", recursive=True)


@pytest.mark.parametrize("to", ["parquet", "webdataset"])
def test_shards_where_fsspec_reaches_are_read_as_local_ones(records, tmp_path, bucket, to, monkeypatch):
    write_shards(load_faces(records), tmp_path / "shards", to, shard_photos=40, show_progress=False)
    bucket.put(str(tmp_path / "shards"), "/bucket", recursive=True)
    copies = tmp_path / "copies"
    copies.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(copies))
    name = "{000000..000002}.tar" if to == "webdataset" else "train-*.parquet"
    for group in (0, 3):
        local = read(*stream(tmp_path / "shards", 6, group=group), epoch=2)
        for url in ("memory://bucket", f"memory://bucket/{name}"):
            ring = ShardRing(open_shards(url), 0, 20, group)
            assert ring.fingerprint == ShardRing(open_shards(str(tmp_path / "shards")), 0, 20).fingerprint
            dataset, sampler = stream(ring, 6, group=group)
            assert read(dataset, sampler, epoch=2) == local
            dataset._samples.close()
            assert not list(copies.iterdir()), "a shard's copy is removed"


def test_what_is_wrong_with_remote_shards_is_one_line(records, tmp_path, bucket, monkeypatch):
    def refused(match, url, **options):
        with pytest.raises(InputError, match=match) as error:
            shards = open_shards(url, **options)
            list(itertools.chain.from_iterable(shards.read(s, range(n)) for s, n in enumerate(shards.counts)))
        assert "\n" not in str(error.value)

    write_shards(load_faces(records), tmp_path / "shards", "webdataset", shard_photos=40, show_progress=False)
    bucket.put(str(tmp_path / "shards"), "/bucket", recursive=True)
    refused("has no shards", "memory://elsewhere")
    refused("memory://bucket/000003.tar does not exist", "memory://bucket/{000000..000003}.tar")
    bucket.pipe("/rec/train.rec", b"records")
    refused("has no shards", "memory://rec")
    for limit, value, said in (
        ("_FREE_BYTES", 1 << 60, "no room for its"),
        ("_MAX_BYTES", 1000, "bytes, more than 1,000"),
    ):
        with monkeypatch.context() as limits:
            limits.setattr(f"hfembed.faces.data.shard_files.{limit}", value)
            refused(said, "memory://bucket")
    content = bytearray(bucket.cat("/bucket/000001.tar"))
    content[0] ^= 1
    bucket.pipe("/bucket/000001.tar", bytes(content))
    refused("000001.tar is damaged at byte 0", "memory://bucket")
    bucket.pipe("/bucket/000001.tar", bytes(content) + bytes(512))
    refused("bytes, not .* as in manifest.json", "memory://bucket")
    bucket.rm("/bucket/manifest.json")
    refused("has no manifest.json of these shards", "memory://bucket")
    with pytest.raises(InputError, match="read by a recipe with streaming alone"):
        load_faces("s3://bucket/shards")

    def unreachable(url):
        raise RuntimeError("no credentials\nwere found")

    monkeypatch.setattr("hfembed.faces.data.shard_files.url_to_fs", unreachable)
    refused("s3://bucket/shards cannot be read: no credentials", "s3://bucket/shards")


@pytest.fixture(params=["records", "tars", "parquet"])
def grouped(request, tmp_path, monkeypatch):
    """People with 1 to 11 photos, side by side; the photos' labels by number."""
    monkeypatch.setattr("hfembed.faces.data.shard_readers._RECORDS_PER_SHARD", 7)
    sizes = [1, 2, 3, 4, 5, 7, 8, 11, 6, 4, 2, 3, 9]
    photos = [[encode(12 * person + photo, size=(8, 8)) for photo in range(size)] for person, size in enumerate(sizes)]
    records = write_records(tmp_path / "rec", photos, size=(8, 8), arrays=request.param == "records")
    if request.param == "records":
        return records, sizes
    to = "parquet" if request.param == "parquet" else "webdataset"
    write_shards(load_faces(records), tmp_path / "shards", to, shard_photos=12, by_person=True, show_progress=False)
    return tmp_path / "shards", sizes


@pytest.mark.parametrize(("ranks", "lanes", "people"), [(1, 1, 3), (1, 2, 1), (2, 1, 2), (2, 2, 1)])
def test_groups_have_photos_of_one_person_and_none_is_lost(grouped, ranks, lanes, people):
    source, sizes = grouped
    size, wanted = 4, sum(-(-size // 4) for size in sizes if size > 1)
    orders = []
    for epoch in (0, 1):
        batches = []
        for rank in range(ranks):
            dataset, sampler = stream(source, people * size, lanes, rank, ranks, buffer=30, group=size)
            assert len(sampler) == wanted // (people * ranks)
            whole = read(dataset, sampler, epoch)
            batches += whole
            for start in (1, len(sampler) - 1):
                assert (
                    read(*stream(source, people * size, lanes, rank, ranks, 30, group=size), epoch, start)
                    == (whole[start:])
                ), "resumed to the bit"
        assert 0 not in {label for batch in batches for _, label, _ in batch}
        groups = [batch[n : n + size] for batch in batches for n in range(0, len(batch), size)]
        assert all(len({label for _, label, _ in group}) == 1 for group in groups)
        assert all(len({key[1] for key, _, _ in group}) == min(size, sizes[group[0][1]]) for group in groups)
        keys = [key for batch in batches for key, _, _ in batch]
        assert len(set(keys)) == len(keys), "a photo that comes again is augmented anew"
        if wanted % (people * ranks) == 0:
            assert len({key[1] for key in keys}) == sum(sizes) - 1, "all but the only photo of its person"
        times = np.bincount([key[1] for key in keys])
        assert times.max() <= 2, "2 photos fill a group twice, others come at most once more"
        orders.append([group[0][1] for group in groups])
    assert orders[0] != orders[1], "people come in another order in each epoch"


def test_a_group_is_filled_up_where_photos_are_broken(tmp_path, caplog):
    members = samples(12)  # of three people in turn
    names = [name for name, _ in members]
    for broken in (1, 2, 5, 8, 11):
        members[names.index(f"{broken:06d}.jpg")] = (f"{broken:06d}.jpg", b"not an image")
    write_shard(tmp_path / "a.tar", members)
    ring = ShardRing(open_shards(str(tmp_path / "a.tar"), 3), 5, 4, 4)
    whole = read(*stream(ring, 4, group=4))
    labels = [{label for _, label, _ in batch} for batch in whole]
    assert [len(found) for found in labels] == [1, 1, 1] and set.union(*labels) == {0, 1}
    keys = [key for batch in whole for key, _, _ in batch]
    assert len(set(keys)) == 12 and {key[1] for key in keys} == {0, 3, 4, 6, 7, 9, 10}
    assert "a.tar: 000001" in caplog.text and "a.tar: 000011" in caplog.text
    for start in (1, 2):
        assert read(*stream(ring, 4, group=4), start=start) == whole[start:]


def test_several_sources_are_one_stream(tmp_path):
    photos = [[encode(5 * person + photo, size=(8, 8)) for photo in range(5)] for person in range(4)]
    write_records(tmp_path / "a", photos, size=(8, 8))
    write_records(tmp_path / "b", photos[:3], size=(8, 8))
    folder = write_folder(tmp_path / "folder", person_photos({"Ann": 3, "Bo": 2}))
    write_shards(load_faces(folder), tmp_path / "named", "parquet", show_progress=False)
    opened = {name: open_shards(str(tmp_path / name)) for name in ("a", "b", "named")}
    for group in (0, 2):
        ring = ShardRing(JoinedShards(opened), 0, 20, group)
        assert list(ring.people) == [*(f"a_{n}" for n in range(4)), *(f"b_{n}" for n in range(3)), "Ann", "Bo"]
        dataset, sampler = stream(ring, 4, group=group)
        keys = [(key[1], label) for batch in read(dataset, sampler) for key, label, _ in batch]
        of_photo = dict(keys)
        assert ring.num_photos == 40 and set(of_photo) == set(range(40))
        labels = [of_photo[number] for number in range(40)]
        assert labels[:35] == [n // 5 for n in range(35)] and sorted(labels[35:]) == [7, 7, 7, 8, 8]
    with pytest.raises(InputError, match="Ann, Bo: people of this name"):
        JoinedShards({"x": opened["named"], "y": opened["named"]})


def test_an_iterable_dataset_is_read_by_every_worker_once(records):
    faces = load_faces(records)
    table = faces.cast_column("image", datasets.Image(decode=False)).to_iterable_dataset(num_shards=6)
    people = faces.features["label"].names

    def source():
        return IterablePhotos(table, people, seed=2, buffer=10)

    every = []
    for rank, workers in itertools.product((0, 1), (3,)):
        dataset, sampler = stream(source(), 4, workers, rank, 2)
        whole = read(dataset, sampler, epoch=1, workers=workers)
        assert len(whole) == len(sampler) == 12
        for start in (1, 7):
            again, other = stream(source(), 4, workers, rank, 2)
            assert read(again, other, epoch=1, start=start, workers=workers) == whole[start:]
        every += [key for batch in whole for key, _, _ in batch]
    assert len({key[1] for key in every}) == 96, "of 6 lanes, with 16 or 17 photos and 16 places each"
    assert read(*stream(source(), 4), epoch=2) != read(*stream(source(), 4), epoch=1)
    dataset, sampler = stream(source(), 33)  # four times what there is: it begins again
    assert len({key[1] for batch in read(dataset, sampler) for key, _, _ in batch}) == PHOTOS


def test_what_cannot_be_streamed_is_said(records, tmp_path):
    def refused(match, path, **options):
        with pytest.raises(InputError, match=match) as error:
            shards = open_shards(str(path), **options)
            list(itertools.chain.from_iterable(shards.read(s, range(n)) for s, n in enumerate(shards.counts)))
        assert "\n" not in str(error.value)

    write_shard(tmp_path / "a.tar", samples(9))
    refused("does not say how many people", tmp_path / "a.tar")
    refused("has label 2; expected .* from 0 to 1", tmp_path / "a.tar", num_people=2)
    write_shard(tmp_path / "b.tar", [("0.jpg", encode(0)), ("0.json", b"{}")])
    refused("no number in a .cls", tmp_path / "b.tar", num_people=2)
    refused("does not exist", tmp_path / "part{0..3}.tar")
    assert open_shards("owner/name") is None
    (tmp_path / "people" / "Ann").mkdir(parents=True)
    (tmp_path / "people" / "Ann" / "1.jpg").write_bytes(encode(0))
    refused("cannot be streamed", tmp_path / "people")

    write_shards(load_faces(records), tmp_path / "shards", "webdataset", shard_photos=50, show_progress=False)
    manifest = json.loads((tmp_path / "shards" / "manifest.json").read_text())
    manifest["shards"][1]["photos"] += 1
    (tmp_path / "shards" / "manifest.json").write_text(json.dumps(manifest))
    refused("has 49 photos, not 50", tmp_path / "shards")
    with (tmp_path / "shards" / "000000.tar").open("ab") as file:
        file.write(bytes(512))
    refused("bytes, not .* as in manifest", tmp_path / "shards")
    for shards in ([{"name": "000000.tar"}], 5, [dict(manifest["shards"][1], photos="many"), manifest["shards"][0]]):
        (tmp_path / "shards" / "manifest.json").write_text(json.dumps(manifest | {"shards": shards}))
        refused("manifest", tmp_path / "shards" / "000001.tar")

    write_shards(load_faces(records), tmp_path / "parquet", "parquet", shard_photos=50, show_progress=False)
    (file, *_) = sorted((tmp_path / "parquet").glob("*.parquet"))
    content = file.read_bytes()
    file.write_bytes(content[:-20])
    refused("cannot be read", tmp_path / "parquet")
    file.write_bytes(content[:4] + bytes(200) + content[204:])
    refused("cannot be read|no photo|fewer rows", tmp_path / "parquet")

    content, index = (records / "train.rec").read_bytes(), (records / "train.idx").read_text()
    begin = int(index.splitlines()[40].split()[1])
    for damage, match in (
        (content[:begin] + bytes(4) + content[begin + 4 :], f"damaged at byte {begin:,}"),
        (content[: begin + 20], "lie outside of the file"),
        (content[: begin + 12] + np.float32(2.5).tobytes() + content[begin + 16 :], "has label 2.5"),
    ):
        (records / "train.rec").write_bytes(damage)
        refused(match, records)
    (records / "train.rec").write_bytes(content)
    (records / "train.idx").write_text(index + index)
    refused("larger than an index|repeat", records)
    (records / "train.idx").unlink()
    (records / "train.rec").write_bytes(content[:-20])
    refused("is cut short", records)


def test_records_beyond_what_float32_holds(tmp_path):
    """The key after the last photo stands in record 0 as a float32, which may be off by one."""
    photos = [[encode(n) for n in range(5)], [encode(n) for n in range(5, 10)]]
    folder = write_records(tmp_path / "rec", photos)
    data = bytearray((folder / "train.rec").read_bytes())
    place = data.index(np.float32(11).tobytes())
    for said in (10, 12):
        data[place : place + 4] = np.float32(said).tobytes()
        (folder / "train.rec").write_bytes(data)
        assert open_shards(str(folder)).counts.sum() == 10
