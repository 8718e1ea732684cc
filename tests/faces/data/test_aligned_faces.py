import pickle
from concurrent.futures import ProcessPoolExecutor

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hfembed.errors import InputError
from hfembed.faces.data import aligned_faces
from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.data.augmentation import FaceAugmentation
from hfembed.faces.data.collators import FaceCollator
from hfembed.faces.data.faces import load_faces
from hfembed.faces.data.samplers import IdentityBatchSampler
from hfembed.faces.data.synthetic_faces import make_synthetic_faces
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.training.samplers import KeyedBatchSampler
from tests.faces.data.conftest import encode, write_folder
from tests.fork_server import fork_server


@pytest.fixture(scope="module")
def faces():
    return make_synthetic_faces(4, 5, image_size=64)


@pytest.fixture
def processor():
    return FaceImageProcessor(size=[32, 24], color="gray")


def align(faces, processor, **options):
    return AlignedFaces(faces, processor, show_progress=False, **options)


def test_crops_are_the_processors_own(faces, processor):
    aligned = align(faces, processor)
    assert len(aligned) == 20 and aligned.shape == (1, 32, 24)
    assert aligned.labels.tolist() == faces["label"][:] and aligned.identities == faces.features["label"].names
    for row in (0, 7, 19):
        sample = aligned[2, row]
        expected = processor.align(faces[row]["image"], faces[row]["landmarks"])
        assert sample["pixels"].dtype == torch.uint8
        assert np.array_equal(sample["pixels"].numpy(), expected.transpose(2, 0, 1))
        assert sample["key"] == (2, row) and sample["label"] == faces[row]["label"]


def test_the_cache_is_made_once_per_data_and_processor(faces, processor, tmp_path, monkeypatch):
    first = align(faces, processor, cache_dir=tmp_path)
    stamp = (first.folder / "pixels.npy").stat().st_mtime_ns
    again = align(faces, FaceImageProcessor(size=[32, 24], color="gray"), cache_dir=tmp_path)
    assert again.folder == first.folder and (again.folder / "pixels.npy").stat().st_mtime_ns == stamp
    others = [
        align(faces, FaceImageProcessor(size=[32, 24], color="rgb"), cache_dir=tmp_path),
        align(faces.select(range(10)), processor, cache_dir=tmp_path),
        align(faces, processor, margin=2, cache_dir=tmp_path),
    ]
    assert len({first.folder, *(other.folder for other in others)}) == 4
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == sorted(
        aligned.folder.name for aligned in (first, *others)
    ), "nothing unfinished is left behind"


def test_worker_processes_give_the_same(faces, processor, tmp_path):
    alone = align(faces, processor, cache_dir=tmp_path / "a")
    together = align(faces, processor, cache_dir=tmp_path / "b", num_workers=2)
    assert np.array_equal(np.load(alone.folder / "pixels.npy"), np.load(together.folder / "pixels.npy"))
    copy = pickle.loads(pickle.dumps(together))
    assert torch.equal(copy[0, 3]["pixels"], alone[0, 3]["pixels"])
    assert len(pickle.dumps(together)) < 5000, "pixels do not travel to the workers"


@pytest.mark.parametrize("known", [True, False])
def test_a_margin_surrounds_the_crop(faces, processor, known):
    """With landmarks and without, the middle is what the processor gives, at the same scale."""
    faces = faces if known else faces.remove_columns("landmarks")
    plain, wide = align(faces, processor), align(faces, processor, margin=4)
    assert wide.shape == (1, 40, 32)
    for row in range(0, 20, 4):
        middle = wide[0, row]["pixels"][:, 4:-4, 4:-4].int()
        assert (middle - plain[0, row]["pixels"].int()).abs().max() <= 1, "but for rounding"


def test_broken_photos_are_named_and_skipped_or_refused(tmp_path, processor):
    whole = encode(5)
    folder = write_folder(
        tmp_path / "people",
        {
            "Ann/1.jpg": whole,
            "Ann/2.jpg": whole[: len(whole) // 2],
            "Ann/3.jpg": b"",
            "Bob/1.jpg": b"no image",
            "Bob/2.png": encode(9, kind="PNG"),
        },
    )
    faces = load_faces(folder)
    aligned = align(faces, processor)
    assert aligned.files == ["Ann/1.jpg", "Bob/2.png"] and aligned.labels.tolist() == [0, 1]
    assert set(aligned.failures) == {"Ann/2.jpg", "Ann/3.jpg", "Bob/1.jpg"} and all(aligned.failures.values())
    assert align(faces, processor).failures == aligned.failures, "known from the cache too"
    bob = processor.align(faces[4]["image"]).transpose(2, 0, 1)
    assert np.array_equal(aligned[0, 1]["pixels"].numpy(), bob)
    with pytest.raises(InputError, match=r'"Ann/2.jpg" \(and 2 more\) cannot be used') as error:
        align(faces, processor, broken="refuse")
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="none of the 1 photos can be used"):
        align(faces.select([3]), processor)
    with pytest.raises(InputError, match="nothing to align"):
        align(faces.select([]), processor)


def test_gray_photos_and_impossible_landmarks(tmp_path, processor):
    import io

    import PIL.Image

    file = io.BytesIO()
    PIL.Image.new("L", (30, 30), 77).save(file, "JPEG")
    faces = load_faces(write_folder(tmp_path / "people", {"Ann/1.jpg": file.getvalue(), "Ann/2.jpg": encode(3)}))
    points = [None, [[5.0, 5.0]] * 5]
    faces = faces.remove_columns("landmarks").add_column("landmarks", points)
    aligned = align(faces, FaceImageProcessor(size=16))
    assert aligned[0, 0]["pixels"].unique().tolist() == [77]
    assert "landmarks" in aligned.failures["Ann/2.jpg"]


def test_landmarks_of_another_scale_are_no_black_crop(faces, processor):
    scaled = np.asarray(faces[0]["landmarks"]) * 8
    with pytest.raises(ValueError, match="outside the photo of 64 x 64 pixels"):
        processor.align(faces[0]["image"], scaled)


@pytest.mark.parametrize(
    "record", ["", "{", "[]", '{"done": 3}', *(f'{{"done": {n}, "failures": {{}}}}' for n in (-1, 99, 4))]
)
def test_a_damaged_record_of_an_interrupted_alignment_starts_it_again(faces, processor, tmp_path, record, caplog):
    whole = align(faces, processor, cache_dir=tmp_path / "whole")
    partial = tmp_path / "cache" / f"{whole.folder.name}.partial"
    partial.mkdir(parents=True)
    (partial / "progress.json").write_text(record)
    again = align(faces, processor, cache_dir=tmp_path / "cache")
    assert "from the start" in caplog.text and not partial.exists()
    assert np.array_equal(np.load(again.folder / "pixels.npy"), np.load(whole.folder / "pixels.npy"))


def test_a_damaged_cache_is_one_line(faces, processor, tmp_path):
    (align(faces, processor, cache_dir=tmp_path).folder / "failures.json").write_text("{")
    with pytest.raises(InputError, match="failures.json is not JSON.*remove"):
        align(faces, processor, cache_dir=tmp_path)


def test_an_interrupted_alignment_continues(faces, processor, tmp_path, monkeypatch):
    """A full disk or a kill half way: the next start aligns the rest, and the result is the same."""
    whole = align(faces, processor, cache_dir=tmp_path / "whole")
    aligned_rows = []
    compute = aligned_faces.Crops.__getitem__

    def fail_at(limit):
        def get(self, row):
            if row == limit:
                raise OSError(28, "No space left on device")
            aligned_rows.append(row)
            return compute(self, row)

        return get

    monkeypatch.setattr(aligned_faces, "_ROWS_PER_SYNC", 4)
    monkeypatch.setattr(aligned_faces, "_ROWS_PER_BATCH", 4)
    with monkeypatch.context() as patch:
        patch.setattr(aligned_faces.Crops, "__getitem__", fail_at(13))
        with pytest.raises(OSError, match="No space left"):
            align(faces, processor, cache_dir=tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix == ""]
    aligned_rows.clear()
    monkeypatch.setattr(aligned_faces.Crops, "__getitem__", fail_at(None))
    resumed = align(faces, processor, cache_dir=tmp_path / "cache")
    assert aligned_rows == list(range(12, 20))
    assert (resumed.folder / "pixels.npy").read_bytes() == (whole.folder / "pixels.npy").read_bytes()


def test_processes_that_start_together_share_one_alignment(faces, processor, tmp_path):
    with ProcessPoolExecutor(2, mp_context=fork_server()) as pool:
        folders = list(pool.map(_aligned_folder, [(faces, processor, tmp_path)] * 2))
    assert folders[0] == folders[1] and [path for path in tmp_path.iterdir() if path.is_dir()] == [folders[0]]


def _aligned_folder(arguments):
    faces, processor, cache_dir = arguments
    return align(faces, processor, cache_dir=cache_dir).folder


def test_another_format_is_another_cache(faces, processor, monkeypatch):
    old = align(faces, processor).folder
    monkeypatch.setattr(aligned_faces, "FORMAT_VERSION", 99)
    assert align(faces, processor).folder != old


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_for_the_model(faces, processor, workers):
    """Sampler, crops, augmentation, collator: the same batches whatever the number of workers and ranks."""
    aligned = align(faces, processor, margin=3)
    collate = FaceCollator(
        processor, FaceAugmentation(seed=1, mirror=0.5, rotation=8, noise=1.0, output_size=(32, 24))
    )

    def batches(sampler, workers):
        sampler.set_epoch(2)
        loader = DataLoader(aligned, batch_sampler=sampler, collate_fn=collate, num_workers=workers)
        return list(loader)

    one = batches(KeyedBatchSampler(len(aligned), 8), workers)
    ranks = [batches(KeyedBatchSampler(len(aligned), 4, rank=rank, world_size=2), 0) for rank in range(2)]
    assert len(one) == 2 and one[0]["pixel_values"].shape == (8, 1, 32, 24)
    assert one[0]["pixel_values"].dtype == torch.float32 and one[0]["labels"].dtype == torch.int64
    for step, batch in enumerate(one):
        for name in ("pixel_values", "labels"):
            assert torch.equal(batch[name], torch.cat([rank[step][name] for rank in ranks]))


def test_repeated_photos_are_augmented_anew(faces, processor):
    aligned = align(faces.select(range(10)), processor)
    collate = FaceCollator(processor, FaceAugmentation(rotation=20))
    sampler = IdentityBatchSampler(aligned.labels, 2, 8)
    pixel_values = collate([aligned[key] for key in next(iter(sampler))])["pixel_values"]
    assert len({bytes(image.numpy()) for image in pixel_values}) == 16


def test_without_augmentation_the_collator_only_normalizes(faces, processor):
    aligned = align(faces, processor)
    batch = FaceCollator(processor)([aligned[0, 1], aligned[0, 2]])["pixel_values"]
    whole = processor([faces[row]["image"] for row in (1, 2)], landmarks=[faces[row]["landmarks"] for row in (1, 2)])
    assert torch.equal(batch, whole["pixel_values"])


@pytest.mark.data
def test_prealigned_crops_fit_any_template(research_data):
    """A crop on the standard template, met through its five points, fills a smaller template as the photo would."""
    faces = load_faces(research_data / "celeba299" / "aligned_112x112.tgz", aligned="arcface_112").select(range(20))
    same = align(faces, FaceImageProcessor(size=112))
    stored = np.stack([np.asarray(photo) for photo in faces["image"]]).transpose(0, 3, 1, 2)
    assert np.array_equal(np.stack([same[0, row]["pixels"] for row in range(20)]), stored)
    small = align(faces, FaceImageProcessor(size=56))
    halved = torch.nn.functional.avg_pool2d(torch.from_numpy(stored).float(), 2)
    difference = torch.stack([small[0, row]["pixels"] for row in range(20)]).float() - halved
    assert difference.abs().mean() < 1.5


def test_datasets_caches_are_left_alone(faces, processor, tmp_path):
    aligned = align(faces, processor)
    assert aligned.folder.is_relative_to(datasets.config.HF_DATASETS_CACHE)


def test_margin_noise_belongs_to_the_sample_not_to_the_batch():
    processor = FaceImageProcessor(size=[16, 16])
    samples = {
        key: {"pixels": torch.zeros(3, 16, 16, dtype=torch.uint8), "label": 0, "key": key}
        for key in [(0, 1), (0, 2), (0, 3), (1, 1)]
    }
    collate = FaceCollator(processor, margin_seed=5)
    together = collate([samples[0, 1], samples[0, 2], samples[1, 1]])["margin_noise"]
    apart = torch.cat([collate([samples[key]])["margin_noise"] for key in ((0, 1), (0, 2), (1, 1))])
    assert together.dtype == torch.float32 and torch.equal(together, apart) and len(together.unique()) == 3
    assert not torch.equal(FaceCollator(processor, margin_seed=6)([samples[0, 1]])["margin_noise"], together[:1])
    assert "margin_noise" not in FaceCollator(processor)([samples[0, 1]])
    many = torch.cat([collate([samples[0, 1] | {"key": (0, index)}])["margin_noise"] for index in range(2000)])
    assert abs(many.mean()) < 0.1 and abs(many.std() - 1) < 0.1
