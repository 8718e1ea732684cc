"""From photos to faces, decisions and tables; whatever is wrong with a photo, the others are served."""

import copy
import io
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import AutoModel, pipeline

from hfembed import FaceAnalyzer
from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.json_notes import write_json
from hfembed.errors import InputError
from hfembed.faces import photo_folders
from hfembed.faces.face_analyzer import compose_analyzer, sharpness
from hfembed.faces.photo_folders import embed_folder, read_gallery
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderForClassification, FaceEmbedderModel
from hfembed.photos import find_photos
from tests.faces.conftest import THRESHOLDS, draw

SEVERAL = [(10, 10), (90, 50)]


def same_faces(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one.box, other.box, atol=1e-3)
        np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-4)


def test_faces_with_all_that_is_known_of_them(analyzer):
    (photo,) = analyzer(draw(*SEVERAL, person=3))
    assert photo.name == "photo 0" and photo.error is None and len(photo.faces) == 2
    for face, (left, top) in zip(sorted(photo.faces, key=lambda face: face.box[0]), SEVERAL, strict=True):
        assert np.abs(face.box - [left, top, left + 44, top + 44]).max() < 12
        assert face.landmarks.shape == (5, 2) and (np.diff(face.landmarks[:2, 0]) > 5).all()
        assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-5)
        assert face.quality.score > 0.6 and face.quality.norm > 0 and face.quality.sharpness > 0
        assert face.quality.size == pytest.approx(min(face.box[2:] - face.box[:2]))


def test_notebooks_show_photos_and_crops_as_pictures(analyzer, tmp_path):
    draw((50, 30), person=1).save(tmp_path / "a.png")
    (photo,) = analyzer.stream([tmp_path / "a.png"], return_crops=True)
    shown = Image.open(io.BytesIO(photo._repr_png_()))
    assert shown.size == (160, 120) and (31, 95, 168) in {color for _, color in shown.getcolors(1 << 20)}
    assert Image.open(io.BytesIO(photo.faces[0]._repr_png_())).size == (24, 24)
    (unnamed,) = analyzer(draw((50, 30), person=1))
    assert unnamed._repr_png_() is None and unnamed.faces[0]._repr_png_() is None


def test_the_embedding_is_that_of_the_aligned_crop(analyzer):
    image = draw((50, 30), person=4)
    face = analyzer(image)[0].faces[0]
    inputs = analyzer.embedder_processor(image, landmarks=face.landmarks, return_tensors="pt")
    np.testing.assert_allclose(face.embedding, analyzer.embedder.embed(inputs.pixel_values)[0], atol=1e-5)


def with_embedder(analyzer, embedder):
    return FaceAnalyzer(analyzer.detector, analyzer.detector_processor, embedder, analyzer.embedder_processor)


def test_an_embedder_that_moved_embeds_as_one_that_was_there(analyzer):
    crops = list(np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), np.uint8))
    moved = with_embedder(analyzer, copy.deepcopy(analyzer.embedder))
    before = moved.embed_crops(crops)[0]
    moved.embedder.to(torch.bfloat16)
    fresh = with_embedder(analyzer, copy.deepcopy(analyzer.embedder).to(torch.bfloat16))
    np.testing.assert_array_equal(moved.embed_crops(crops)[0], fresh.embed_crops(crops)[0])
    assert not np.array_equal(moved.embed_crops(crops)[0], before)


def test_an_embedder_whose_weights_change_embeds_with_the_new_ones(analyzer):
    crops = list(np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), np.uint8))
    changed = with_embedder(analyzer, copy.deepcopy(analyzer.embedder))
    weight = next(changed.embedder.parameters())
    fresh_state = FaceEmbedderModel(changed.embedder.config).state_dict()
    noise = torch.randn_like(weight)
    origins = [changed.origin]
    # as load_state_dict, an optimizer, and code that goes round autograd's version counter write
    for write in (
        lambda: changed.embedder.load_state_dict(fresh_state),
        lambda: weight.data.add_(noise),
        lambda: np.add(weight.detach().numpy(), noise.numpy(), out=weight.detach().numpy()),
        lambda: setattr(changed.embedder.config, "mirror", "none"),
    ):
        before = changed.embed_crops(crops)[0]
        write()
        after = changed.embed_crops(crops)[0]
        fresh = with_embedder(analyzer, copy.deepcopy(changed.embedder)).embed_crops(crops)[0]
        np.testing.assert_array_equal(after, fresh)
        assert not np.array_equal(after, before)
        assert all(changed.origin.difference(origin) for origin in origins)
        origins.append(changed.origin)


def test_an_embedding_that_is_not_finite_decides_nothing(analyzer, tmp_path):
    broken = with_embedder(analyzer, copy.deepcopy(analyzer.embedder))
    photo = draw((50, 30), person=1)
    photo.save(tmp_path / "a.png")
    with torch.no_grad():
        next(broken.embedder.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(InputError, match="photo 0: the embeddings are not finite"):
        broken.verify(photo, photo)
    with pytest.raises(InputError, match="not finite"):
        broken.compare(np.full(8, np.nan, np.float32), np.ones(8, np.float32))
    embed_folder(broken, tmp_path, tmp_path / "out.parquet", show_progress_bar=False)
    (row,) = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert row["embedding"] is None and "not finite" in row["error"]
    with pytest.raises(InputError, match="none of the photos of .* can be used; .*not finite"):
        (tmp_path / "gallery" / "Ann").mkdir(parents=True)
        photo.save(tmp_path / "gallery" / "Ann" / "a.png")
        read_gallery(broken, tmp_path / "gallery", show_progress_bar=False)


def test_a_trunk_that_cannot_be_folded_embeds_as_it_is(analyzer):
    # its BatchNorm holds an activation too
    config = FaceEmbedderConfig(trunk="timm/test_efficientnet", image_size=[24, 24], embedding_size=8)
    embedder = FaceEmbedderModel(config).eval()
    crops = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), np.uint8)
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(ValueError, match="'timm/test_efficientnet' cannot be folded"):
            embedder.to(dtype).optimize_for_inference()
        pixels = analyzer.embedder_processor.normalize(torch.from_numpy(crops).permute(0, 3, 1, 2))
        embeddings = with_embedder(analyzer, embedder).embed_crops(list(crops))[0]
        np.testing.assert_array_equal(embeddings, embedder.embed(pixels))


def test_batches_and_threads_change_nothing(analyzer):
    photos = [draw((30, 20), person=1), draw(*SEVERAL, person=2, size=(200, 300)), draw(), draw((99, 70), person=3)]
    expected = [analyzer(photo)[0] for photo in photos]
    before = torch.get_num_threads()
    for batch_size, num_threads in ((4, 1), (3, 2), (1, 3)):
        for photo, alone in zip(analyzer(photos, "all", batch_size, num_threads), expected, strict=True):
            same_faces(photo.faces, alone.faces)
    assert torch.get_num_threads() == before


def test_which_faces(analyzer):
    two, none = draw(*SEVERAL, person=2), draw()
    largest = analyzer(two, faces="largest")[0]
    sizes = [np.prod(face.box[2:] - face.box[:2]) for face in analyzer(two)[0].faces]
    assert (
        len(largest.faces) == 1
        and largest.found == 2
        and np.prod(largest.faces[0].box[2:] - largest.faces[0].box[:2]) == max(sizes)
    )
    photos = analyzer([two, none, draw((20, 20))], faces="only")
    assert photos[0].error == "photo 0: 2 faces, where only one was expected" and not photos[0].faces
    assert photos[1].error == "photo 1: no face was found"
    assert photos[2].error is None and len(photos[2].faces) == 1
    assert analyzer(none)[0] == ("photo 0", [], None, [], 0)
    with pytest.raises(InputError, match="one of 'all', 'largest', 'only'"):
        analyzer(two, faces="first")


def test_a_large_photo_is_searched_small_and_cut_large(analyzer, tmp_path):
    small = draw((50, 30), person=5, size=(400, 300))
    small.resize((800, 600), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    face, expected = analyzer(tmp_path / "large.png")[0].faces[0], analyzer(small)[0].faces[0]
    np.testing.assert_allclose(face.box, (expected.box + 0.5) * 2 - 0.5, atol=1e-2)
    inputs = analyzer.embedder_processor([tmp_path / "large.png"], landmarks=[face.landmarks], return_tensors="pt")
    np.testing.assert_allclose(face.embedding, analyzer.embedder.embed(inputs.pixel_values)[0], atol=1e-5)


def write_bad_photos(folder):
    """Every kind of trouble, and beside it photos that look like trouble and are none."""
    face = draw((50, 30), person=6)
    jpeg = io.BytesIO()
    face.save(jpeg, "JPEG", quality=95)
    (folder / "broken_not_an_image.jpg").write_text("hello")
    (folder / "broken_truncated.jpg").write_bytes(jpeg.getvalue()[: len(jpeg.getvalue()) * 2 // 3])
    Image.new("1", (4000, 3000)).save(folder / "broken_bomb.png")
    (folder / "broken_empty.png").write_bytes(b"")
    Image.new("RGB", (1, 1)).save(folder / "empty_one_pixel.png")
    draw().save(folder / "empty_nobody.jpg")
    face.convert("CMYK").save(folder / "fine_cmyk.jpg", quality=95)
    Image.fromarray(np.asarray(face.convert("L")).astype(np.uint16) * 257).save(folder / "fine_sixteen_bits.png")
    face.convert("L").save(folder / "fine_gray.png")
    face.convert("RGBA").save(folder / "fine_alpha.png")
    face.convert("P").save(folder / "fine_animated.gif", save_all=True, append_images=[draw().convert("P")])
    many = [(20 + 100 * column, 20 + 90 * row) for column in range(5) for row in range(4)]
    sheet = draw(*many, size=(540, 400), side=60)
    sheet.resize((400, 296), Image.Resampling.BOX).save(folder / "fine_twenty.png")
    (folder / "notes.txt").write_text("no photo, and not asked")


def test_bad_photos_are_named_and_the_rest_is_served(analyzer, tmp_path):
    write_bad_photos(tmp_path)
    for photo in analyzer(find_photos(tmp_path).photos, batch_size=4, num_threads=2):
        name = photo.name.rpartition("/")[2]
        if name.startswith("broken"):
            assert str(tmp_path / name) in photo.error and "\n" not in photo.error and not photo.faces
        else:
            wanted = 0 if name.startswith("empty") else 20 if "twenty" in name else 1
            assert photo.error is None and len(photo.faces) == wanted, name
    reasons = {photo.name.rpartition("/")[2]: photo.error for photo in analyzer(find_photos(tmp_path).photos)}
    assert "not an image" in reasons["broken_not_an_image.jpg"]
    assert "truncated" in reasons["broken_truncated.jpg"].lower()
    assert "4000 x 3000 pixels, more than max_pixels = 1,000,000" in reasons["broken_bomb.png"]


def test_a_folder_becomes_a_table(analyzer, tmp_path):
    (tmp_path / "photos" / "below").mkdir(parents=True)
    write_bad_photos(tmp_path / "photos")
    draw(*SEVERAL, person=1).save(tmp_path / "photos" / "below" / "two.png")
    summary = embed_folder(
        analyzer, tmp_path / "photos", tmp_path / "out.parquet", batch_size=5, show_progress_bar=False
    )
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert summary.photos == 13 and summary.faces == 27 and len(summary.errors) == 6
    assert {row["file"] for row in rows} == set(find_photos(tmp_path / "photos").names)
    found = {row["file"]: row for row in rows}
    assert "no face was found" in found["empty_nobody.jpg"]["error"] and found["empty_nobody.jpg"]["face"] is None
    assert found["below/two.png"]["face"] == 1 and found["below/two.png"]["error"] is None
    face = analyzer(tmp_path / "photos" / "fine_gray.png")[0].faces[0]
    np.testing.assert_allclose(found["fine_gray.png"]["embedding"], face.embedding, atol=1e-4)
    np.testing.assert_allclose(found["fine_gray.png"]["landmarks"], face.landmarks, atol=1e-2)

    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match=r"nothing contains no photos \(.*\.jpg"):
        embed_folder(analyzer, tmp_path / "nothing", tmp_path / "none.parquet")
    with pytest.raises(InputError, match="no such folder"):
        embed_folder(analyzer, tmp_path / "missing", tmp_path / "none.parquet")
    assert not (tmp_path / "none.parquet").exists()


def test_a_killed_table_goes_on(analyzer, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    for number in range(7):
        draw((50, 30), person=number % 3).save(tmp_path / "photos" / f"{number}.png")
    draw().save(tmp_path / "photos" / "nobody.png")
    monkeypatch.setattr(photo_folders, "_PART", 2)
    arguments = {"show_progress_bar": False, "batch_size": 1, "num_threads": 1}
    whole = embed_folder(analyzer, tmp_path / "photos", tmp_path / "whole.parquet", **arguments)
    assert whole[:2] == (8, 7) and "nobody.png: no face was found" in whole.errors[0]
    expected = pq.read_table(tmp_path / "whole.parquet").sort_by("file")
    stream, analyzed = analyzer.stream, []

    def killed(paths, *more, **options):
        for photo in stream(paths, *more, **options):
            analyzed.append(photo.name)
            if len(analyzed) == 4:
                raise KeyboardInterrupt
            yield photo

    monkeypatch.setattr(analyzer, "stream", killed)
    out = tmp_path / "out.parquet"
    with pytest.raises(KeyboardInterrupt):
        embed_folder(analyzer, tmp_path / "photos", out, **arguments)
    with pytest.raises(InputError, match="earlier run: --resume goes on with it; delete it to start anew"):
        embed_folder(analyzer, tmp_path / "photos", out, **arguments)
    with pytest.raises(InputError, match="is of a run with other min_quality"):
        embed_folder(analyzer, tmp_path / "photos", out, **arguments, min_quality=0.1, resume=True)
    summary = embed_folder(analyzer, tmp_path / "photos", out, **arguments, resume=True)
    assert summary == whole and pq.read_table(out).sort_by("file") == expected
    with pytest.raises(InputError, match="out.parquet is finished: there is nothing to resume"):
        embed_folder(analyzer, tmp_path / "photos", out, **arguments, resume=True)
    assert len(analyzed) == 4 + 2, "three people and nobody, each once; a part was done twice"
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def make_gallery(folder, people):
    for person, patterns in people.items():
        (folder / person).mkdir(parents=True)
        for number, pattern in enumerate(patterns):
            draw((50, 30), person=pattern).save(folder / person / f"{number}.png")
    return folder


def test_a_gallery_of_people(analyzer, tmp_path):
    folder = make_gallery(tmp_path / "gallery", {"Ann": [1, 1], "Bob": [2]})
    (folder / "Ann" / "broken.jpg").write_bytes(b"x")
    index, summary = read_gallery(analyzer, folder, show_progress_bar=False)
    assert index.names == ["Ann", "Bob"] and len(index) == 3
    assert len(summary.errors) == 1 and "Ann/broken.jpg" in summary.errors[0]
    probe = analyzer(draw((50, 30), person=2))[0].faces[0]
    assert index.search(probe.embedding, 1).labels == [["Bob"]]

    (folder / "Carl").mkdir()
    draw().save(folder / "Carl" / "nobody.png")
    index, summary = read_gallery(analyzer, folder, show_progress_bar=False)
    assert index.names == ["Ann", "Bob"] and index.files == ["Ann/0.png", "Ann/1.png", "Bob/0.png"]
    assert "nobody.png: no face was found" in summary.errors[1] and summary.errors[2] == "no photo of Carl can be used"
    index.check_origin(analyzer.origin)
    make_gallery(folder, {"ann": [3]})
    with pytest.raises(InputError, match='"Ann" and "ann" look like the same person'):
        read_gallery(analyzer, folder, show_progress_bar=False)
    draw().save(folder / "stray.png")
    with pytest.raises(InputError, match="stray.png is not inside a person folder"):
        read_gallery(analyzer, folder, show_progress_bar=False)


def test_verification(analyzer, tmp_path):
    a, b, other = draw((50, 30), person=1), draw((50, 30), person=1), draw((50, 30), person=2)
    same = analyzer.verify(a, b)
    assert same.same and same.similarity == pytest.approx(1, abs=1e-5) and same.distance == pytest.approx(0, abs=1e-5)
    assert same.threshold == 0.9 and same.far is None and 0.5 < same.probability < 1 / (1 + np.exp(-2))
    strict = analyzer.verify(a, other, far=0.01)
    assert strict.threshold == 0.999 and strict.same == (strict.similarity >= 0.999)
    with pytest.raises(InputError, match="photo 1: no face was found"):
        analyzer.verify(a, draw())
    with pytest.raises(InputError, match="photo 0: 2 faces"):
        analyzer.verify(draw(*SEVERAL), a, faces="only")
    with pytest.raises(InputError, match="no threshold for a false accept rate of 0.5; it has: 0.01"):
        analyzer.verify(a, b, far=0.5)
    with pytest.raises(InputError, match="missing.jpg"):
        analyzer.verify(a, tmp_path / "missing.jpg")


def test_saved_and_loaded_is_the_same(analyzer, folder):
    loaded = FaceAnalyzer.from_pretrained(folder, "cpu")
    photo = draw(*SEVERAL, person=3)
    same_faces(loaded(photo)[0].faces, analyzer(photo)[0].faces)
    assert loaded.detector.config.min_face_size == 40 and loaded.detector_processor.max_pixels == 1_000_000
    # the folder is an embedder too
    assert AutoModel.from_pretrained(folder).config.thresholds == analyzer.embedder.config.thresholds
    with pytest.raises(InputError, match="has no detector in it; .*`hfembed analyzer DETECTOR"):
        FaceAnalyzer.from_pretrained(folder / "detector", "cpu")


def test_notes_stay_with_the_weights_they_belong_to(analyzer, folder, tmp_path):
    model = tmp_path / "model"
    analyzer.save_pretrained(model)
    Checkpoint.resolve(model).write_note("training.json", {"name": "squares"})
    weights = Checkpoint.resolve(model).fingerprint
    write_json(model / "results.json", {"lfw_view2_accuracy": 0.9, "lfw_view2": {"weights": weights}})
    (model / "README.md").write_text("written by hand")
    loaded = FaceAnalyzer.from_pretrained(model, "cpu")
    for place in (model, tmp_path / "copy"):
        loaded.save_pretrained(place)
        again = Checkpoint.resolve(place)
        assert again.training["name"] == "squares" and again.results["lfw_view2_accuracy"] == 0.9
        assert (place / "README.md").read_text() == "written by hand"
        assert FaceAnalyzer.from_pretrained(place, "cpu").origin == loaded.origin
    next(loaded.embedder.parameters()).data.mul_(0.5)
    loaded.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy" / "training.json").exists() and not (tmp_path / "copy" / "results.json").exists()


def test_notes_of_a_model_with_a_head_stay_too(analyzer, folder, tmp_path):
    model = FaceEmbedderForClassification(FaceEmbedderConfig(**analyzer.embedder.config.to_dict() | {"num_labels": 3}))
    model.save_pretrained(tmp_path / "model")
    analyzer.embedder_processor.save_pretrained(tmp_path / "model")
    checkpoint = Checkpoint.resolve(tmp_path / "model")
    checkpoint.store_thresholds(THRESHOLDS)
    checkpoint.write_note("training.json", {"name": "squares"})
    compose_analyzer(folder / "detector", tmp_path / "model", tmp_path / "out")
    composed = Checkpoint.resolve(tmp_path / "out")
    assert composed.training["name"] == "squares" and composed.thresholds["accuracy"] == 0.9
    assert composed.fingerprint != checkpoint.fingerprint, "the head is gone"
    assert (tmp_path / "out" / "README.md").is_file()


def test_an_analyzer_in_half_precision_is_of_the_same_origin(analyzer, folder):
    half = FaceAnalyzer.from_pretrained(folder, "cpu", torch.bfloat16)
    assert half.embedder.dtype == torch.bfloat16 and half.detector.dtype == torch.float32
    assert half.origin.difference(FaceAnalyzer.from_pretrained(folder, "cpu").origin) is None
    photo = draw((50, 30), person=1)
    embeddings = [one(photo)[0].faces[0].embedding for one in (half, analyzer)]
    assert embeddings[0] @ embeddings[1] > 0.99


def test_a_precision_has_a_name_too(folder):
    assert FaceAnalyzer.from_pretrained(folder, "cpu", "bfloat16").embedder.dtype == torch.bfloat16
    assert FaceAnalyzer.from_pretrained(folder, "cpu", "auto").embedder.dtype == torch.float32
    with pytest.raises(InputError, match="dtype 'int8': expected auto, float32"):
        FaceAnalyzer.from_pretrained(folder, "cpu", "int8")


def test_an_analyzer_moves(folder):
    half = FaceAnalyzer.from_pretrained(folder, "cpu", "bfloat16")
    origin = half.origin
    assert half.to("cpu") is half and half.origin == origin
    with pytest.raises(InputError, match="device 'meta'"):
        half.to("meta")


def test_what_is_printed_says_what_it_is(analyzer, folder):
    face = analyzer(draw((50, 30), person=1))[0].faces[0]
    assert re.fullmatch(r"Face\(box=\[[\d., ]+\], score=\d\.\d\d\)", repr(face))
    loaded = FaceAnalyzer.from_pretrained(folder, "cpu")
    assert repr(loaded) == f"FaceAnalyzer(detector='{folder}/detector', embedder='{folder}', device='cpu')"
    with pytest.warns(FutureWarning, match="num_threads"):
        analyzer([], num_workers=2)


def test_sharpness_is_the_variance_of_the_laplacian():
    crops = torch.randint(0, 256, (2, 3, 9, 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for value, crop in zip(sharpness(crops).tolist(), crops.double().numpy(), strict=True):
        gray = crop.mean(0)
        laplacian = [
            gray[y - 1, x] + gray[y + 1, x] + gray[y, x - 1] + gray[y, x + 1] - 4 * gray[y, x]
            for y in range(1, 8)
            for x in range(1, 6)
        ]
        assert value == pytest.approx(np.var(laplacian, ddof=1), rel=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_face_embedding_pipeline(analyzer, folder, batch_size):
    embed = pipeline("face-embedding", model=str(folder), device="cpu")
    photos = [draw((50, 30), person=1), draw(), draw(*SEVERAL, person=2), draw((20, 40), person=3)]
    results = embed(photos, batch_size=batch_size)
    for faces, photo in zip(results, analyzer(photos), strict=True):
        assert len(faces) == len(photo.faces)
        for face, expected in zip(faces, photo.faces, strict=True):
            np.testing.assert_allclose(face["embedding"], expected.embedding, atol=1e-4)
            np.testing.assert_allclose(face["box"], expected.box, atol=1e-3)
            assert face["norm"] == pytest.approx(expected.quality.norm, rel=1e-3)
    assert len(embed(photos[2], faces="largest")) == 1
    with pytest.raises(InputError, match="2 faces"):
        embed(photos[2], faces="only")


@pytest.mark.parametrize("batch_size", [1, 4])
def test_face_verification_pipeline(analyzer, folder, batch_size):
    verify = pipeline("face-verification", model=str(folder), device="cpu")
    photos = [draw((50, 30), person=person) for person in range(4)]
    photos[1] = draw(*SEVERAL, person=1)  # a second face must not shift the pairs after it
    pairs = [(photos[0], photos[0]), (photos[1], photos[2]), (photos[2], photos[2]), (photos[3], photos[0])]
    results = verify(pairs, batch_size=batch_size)
    for result, pair in zip(results, pairs, strict=True):
        expected = analyzer.verify(*pair)
        assert result["same"] == expected.same and result["threshold"] == 0.9
        assert result["similarity"] == pytest.approx(expected.similarity, abs=1e-4)
    assert verify(pairs[0], far=0.01)["threshold"] == 0.999
    with pytest.raises(InputError, match="no face was found"):
        verify((photos[0], draw()))
