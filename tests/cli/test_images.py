"""The commands for images as a user calls them: the files they leave, and one line when something is wrong."""

import json
import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from hfembed.checkpoint import loading
from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.cli import main, options
from hfembed.faces.data.synthetic_faces import make_synthetic_faces
from hfembed.images.pictures import ANIMATION_SUFFIXES, PICTURE_SUFFIXES
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor, template_for_size
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel
from tests.images.tiny_autoencoder import SIZE, save_tiny_autoencoder, tiny_restoration


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command in this process; exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hfembed", *map(str, arguments)])
        capsys.readouterr()  # progress bars of models that the test itself wrote
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return run


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A folder per person, five people with eight photos."""
    folder = tmp_path_factory.mktemp("people")
    for face in make_synthetic_faces(num_identities=5, photos_per_identity=8, image_size=24):
        file = folder / f"Person_{face['label']}" / face["file"].split("/")[1]
        file.parent.mkdir(exist_ok=True)
        face["image"].save(file)
    return folder


@pytest.fixture(scope="module")
def photos(people):
    return sorted(people.rglob("*.jpg"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("autoencoder")
    save_tiny_autoencoder(folder)
    return folder


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, people):
    folder = tmp_path_factory.mktemp("fitted")
    save_tiny_autoencoder(folder)
    sys_argv = sys.argv
    sys.argv = ["hfembed", "fit-latents", str(folder), "--images", str(people)]
    sys.argv += ["--mixture-components", "2", "--held-out-share", "0.2"]
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        sys.argv = sys_argv
    assert end.value.code == 0
    return folder


@pytest.mark.parametrize("path", ["linear", "spherical"])
def test_morph(run, model, photos, tmp_path, path):
    code, out, _ = run("morph", model, *photos[:2], tmp_path / "a.gif", "--steps", 5, "--path", path)
    assert code == 0 and "a.gif" in out
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 8 and film.size == (4 * SIZE, 4 * SIZE)
    assert run("morph", model, *photos[:2], tmp_path / "a.png", "--steps", 3, "--scale", 1)[0] == 0
    assert Image.open(tmp_path / "a.png").size == (3 * SIZE + 4, SIZE)


def test_morph_at_another_size(run, model, photos, tmp_path):
    morph = ("morph", model, *photos[:2], tmp_path / "a.png", "--steps", 3, "--size")
    assert run(*morph, 2 * SIZE)[0] == 0
    assert Image.open(tmp_path / "a.png").size == (3 * 2 * SIZE + 4, 2 * SIZE), "not enlarged on top of it"
    code, _, err = run(*morph, 2 * SIZE + 1)
    assert code == 1 and f"--size {2 * SIZE + 1}" in err and "multiples of" in err


def test_walk_and_sample(run, fitted, photos, people, tmp_path):
    assert run("walk", fitted, photos[0], tmp_path / "a.png", "--direction", 1, "--steps", 3, "--scale", 1)[0] == 0
    folders = ("--with", people / "Person_0", "--without", people / "Person_1")
    assert run("walk", fitted, photos[0], tmp_path / "b.png", *folders, "--steps", 3, "--scale", 1)[0] == 0
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    for method in ("mixture", "gaussian"):
        assert run("sample", fitted, tmp_path / f"{method}.png", "--count", 6, "--method", method)[0] == 0
        assert Image.open(tmp_path / f"{method}.png").size == (2 * (2 * SIZE + 2), 2 * (3 * SIZE + 4))


def test_compress_and_decompress(run, fitted, photos, tmp_path):
    pytest.importorskip("constriction")
    code, out, _ = run("compress", fitted, photos[0], tmp_path / "a.face", "--quality", 12)
    size = (tmp_path / "a.face").stat().st_size
    assert code == 0 and f"{size} bytes for 16 x 16 pixels, {size / 32:.3f} bits per pixel" in out
    assert "24 x 24 pixels: its center, 24 x 24, was resized" in out and size < photos[0].stat().st_size
    Image.open(photos[0]).resize((SIZE, SIZE)).save(tmp_path / "small.png")
    code, out, _ = run("compress", fitted, tmp_path / "small.png", tmp_path / "small.face")
    assert code == 0 and "resized" not in out
    for quality in (-1, 0, 25, 40):
        code, _, err = run("compress", fitted, photos[0], tmp_path / "q.face", "--quality", quality)
        assert code == 1 and err == f"error: quality must lie between 2 and 24 for this model, not {quality}\n"
        assert not (tmp_path / "q.face").exists()
    assert run("decompress", fitted, tmp_path / "a.face", tmp_path / "a.png")[0] == 0
    assert Image.open(tmp_path / "a.png").size == (SIZE, SIZE)
    (tmp_path / "cut.face").write_bytes((tmp_path / "a.face").read_bytes()[:-3])
    code, _, err = run("decompress", fitted, tmp_path / "cut.face", tmp_path / "cut.png")
    assert code == 1 and err.count("\n") == 1 and "cut.face" in err and "cut short" in err
    code, _, err = run("decompress", fitted, photos[0], tmp_path / "cut.png")
    assert code == 1 and "not a file of hfembed compress" in err and not (tmp_path / "cut.png").exists()
    code, _, err = run("decompress", fitted, tmp_path, tmp_path / "cut.png")
    assert code == 1 and err == f"error: {tmp_path} is a folder; expected a file that hfembed compress wrote\n"


def test_an_entropy_model_is_fitted_and_used(run, fitted, people, photos, embedder, tmp_path):
    pytest.importorskip("constriction")
    shutil.copytree(fitted, tmp_path / "model")
    assert run("compress", fitted, photos[0], tmp_path / "old.face", "--quality", 12)[0] == 0
    fit = ("fit-latents", tmp_path / "model", "--images", people, "--mixture-components", 2, "--held-out-share", 0.2)
    code, out, err = run(*fit, "--entropy-steps", 5)
    assert code == 0 and "entropy model" in out, err
    assert run("compress", tmp_path / "model", photos[0], tmp_path / "new.face", "--quality", 12)[0] == 0
    sizes = [(tmp_path / f"{name}.face").stat().st_size for name in ("new", "old")]
    assert sizes[0] < sizes[1]
    for name in ("new", "old"):
        assert run("decompress", tmp_path / "model", tmp_path / f"{name}.face", tmp_path / f"{name}.png")[0] == 0
    landmarks = {
        photo.relative_to(people).as_posix(): [[8, 9], [16, 9], [12, 13], [9, 17], [15, 17]] for photo in photos
    }
    (tmp_path / "landmarks.json").write_text(json.dumps(landmarks))
    evaluate = ("evaluate", "compression", tmp_path / "model", "--images", people, "--quality", 8, "--quality", 10)
    evaluate += ("--output", tmp_path / "out", "--held-out-share", 0.2, "--embedder", embedder)
    code, out, err = run(*evaluate, "--landmarks", tmp_path / "landmarks.json")
    assert code == 0 and "at equal bytes" in out and "perceptual" in out and "independent" in out, err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert 0 < results["compression_latents_q10_identity_kept"] <= 1
    code, _, err = run(*evaluate)
    assert code == 1 and "--embedder needs --landmarks or --aligned" in err


def test_json_names_what_was_written(run, fitted, people, photos, tmp_path):
    """For every command of this module whose result is a file."""
    pytest.importorskip("constriction")
    save_tiny_autoencoder(tmp_path / "model")
    save_tiny_autoencoder(tmp_path / "denoiser", tiny_restoration)
    commands = {
        tmp_path / "model" / "latent_statistics.safetensors": (
            *("fit-latents", tmp_path / "model", "--images", people, "--mixture-components", 2),
            *("--held-out-share", 0.2),
        ),
        tmp_path / "a.gif": ("morph", fitted, *photos[:2], tmp_path / "a.gif", "--steps", 2),
        tmp_path / "b.gif": ("walk", fitted, photos[0], tmp_path / "b.gif", "--steps", 2),
        tmp_path / "c.png": ("sample", fitted, tmp_path / "c.png", "--count", 4),
        tmp_path / "a.face": ("compress", fitted, photos[0], tmp_path / "a.face"),
        tmp_path / "d.png": ("decompress", fitted, tmp_path / "a.face", tmp_path / "d.png"),
        tmp_path / "e.png": ("denoise", tmp_path / "denoiser", photos[0], tmp_path / "e.png"),
    }
    for output, arguments in commands.items():
        code, out, err = run(*arguments, "--json")
        assert code == 0 and json.loads(out)["output"] == str(output), (arguments, err)
        assert output.exists()


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedder")
    torch.manual_seed(0)
    settings = {"trunk": "iresnet", "trunk_arguments": {"depths": [1], "widths": [8]}, "embedding_size": 4}
    FaceEmbedderModel(FaceEmbedderConfig(**settings, image_size=[24, 24])).save_pretrained(folder)
    template = [[8.0, 9.0], [16.0, 9.0], [12.0, 13.0], [9.0, 17.0], [15.0, 17.0]]
    FaceImageProcessor(size=24, template=template).save_pretrained(folder)
    return folder


def test_evaluate_generation(run, fitted, people, photos, embedder, tmp_path):
    points = [[8, 9], [16, 9], [12, 13], [9, 17], [15, 17]]
    landmarks = {photo.relative_to(people).as_posix(): points for photo in photos}
    (tmp_path / "landmarks.json").write_text(json.dumps(landmarks))
    other = tmp_path / "other"
    shutil.copytree(fitted, other)
    (other / "training.json").write_text(json.dumps({"split": {"held_out_share": 0.4, "seed": 1}}))
    given = ("--embedder", embedder, "--images", people, "--landmarks", tmp_path / "landmarks.json", "--draws", 1)
    one = ("--held-out-share", 0.2, "--output", tmp_path / "one", "--json")
    code, out, err = run("evaluate", "generation", fitted, *given, *one)
    assert code == 0 and "warning" not in err, err
    answer, results = json.loads(out), json.loads((tmp_path / "one" / "results.json").read_text())
    assert {"real_faces", f"{fitted.name}_mixture", f"{fitted.name}_gaussian"} <= set(answer["distances"])
    assert answer["output"] == str(tmp_path / "one")
    weights = Checkpoint.resolve(str(fitted)).fingerprint
    assert results["generation"]["weights"] == weights
    assert results["generation"]["splits"] == {fitted.name: {"held_out_share": 0.2, "seed": 0}}
    # two models, each with its own split and weights; the second one's split is not that of its training
    given = (*given, "--held-out-share", 0.4, "--split-seed", 2)
    code, _, err = run("evaluate", "generation", fitted, other, *given, "--output", tmp_path / "two")
    results = json.loads((tmp_path / "two" / "results.json").read_text())
    assert code == 0 and err.count("warning") == 1 and "other was trained with" in err
    assert results["generation"]["models"] == {fitted.name: weights, "other": weights}
    assert results["generation"]["splits"]["other"]["trained_with"] == {"held_out_share": 0.4, "seed": 1}


def test_denoising_needs_images_to_set_the_classic_methods_on(run, people, tmp_path):
    pytest.importorskip("skimage")
    save_tiny_autoencoder(tmp_path / "denoiser", tiny_restoration)
    command = ("evaluate", "denoising", tmp_path / "denoiser", "--images", people, "--sigma", 0.1)
    code, _, err = run(*command, "--held-out-share", 0.2, "--output", tmp_path / "out")
    assert code == 1 and "error: 32 images of people who are not held out are too few" in err


def test_evaluate_denoising_in_color_with_identity(run, people, photos, embedder, tmp_path, monkeypatch):
    pytest.importorskip("skimage")
    from hfembed.images.evaluation import denoising

    monkeypatch.setattr(denoising, "_TUNING_IMAGES", 8)
    save_tiny_autoencoder(tmp_path / "restorer", tiny_restoration, num_channels=3, inpainting=True, fill="smooth")
    points = [[8, 9], [16, 9], [12, 13], [9, 17], [15, 17]]
    landmarks = {photo.relative_to(people).as_posix(): points for photo in photos}
    (tmp_path / "landmarks.json").write_text(json.dumps(landmarks))
    tests = ("--sigma", 0.1, "--scale", 2, "--jpeg", 10, "--hole", 5, "--strokes", 2, "--max-images", 5)
    known = ("--images", people, "--embedder", embedder, "--landmarks", tmp_path / "landmarks.json")
    command = ("evaluate", "denoising", tmp_path / "restorer", *known, "--held-out-share", 0.4, *tests)
    code, out, err = run(*command, "--output", tmp_path / "out", "--json")
    answer = json.loads(out)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert code == 0 and results["denoising"]["images"] == 5, err
    for name in ("sigma0.1", "x2", "jpeg10", "hole5", "strokes2"):
        assert answer[f"denoising_{name}_psnr"] == results[f"denoising_{name}_psnr"]
        assert -1 <= answer[f"denoising_{name}_identity_kept"] <= 1
        assert (tmp_path / "out" / f"denoising_{name}.png").exists()
    code, _, err = run(*command[:5], "--embedder", embedder, "--output", tmp_path / "out", "--jpeg", 10)
    assert code == 1 and "--landmarks or --aligned" in err


def test_evaluate_denoising_at_another_size_than_the_models(run, people, tmp_path, monkeypatch):
    pytest.importorskip("skimage")
    from hfembed.images.evaluation import denoising

    monkeypatch.setattr(denoising, "_TUNING_IMAGES", 8)
    save_tiny_autoencoder(tmp_path / "restorer", tiny_restoration, inpainting=True, fill="smooth")
    save_tiny_autoencoder(tmp_path / "filler", tiny_restoration, inpainting=True)
    options = ("--images", people, "--held-out-share", 0.4, "--max-images", 3, "--output", tmp_path / "out")
    command = (*options, "--scale", 2, "--strokes", 1, "--size", 2 * SIZE)
    assert run("evaluate", "denoising", tmp_path / "restorer", *command)[0] == 0
    measured = json.loads((tmp_path / "out" / "results.json").read_text())["denoising"]
    assert (measured["images"], measured["image_size"]) == (3, [2 * SIZE, 2 * SIZE])
    code, _, err = run("evaluate", "denoising", tmp_path / "filler", *command)
    assert code == 1 and f"takes {SIZE} x {SIZE} images only" in err


@pytest.mark.parametrize("protocol", ["reconstruction", "compression"])
def test_another_split_than_the_trainings_is_said_and_recorded(run, fitted, people, tmp_path, protocol):
    pytest.importorskip("constriction")
    shutil.copytree(fitted, tmp_path / "model")
    recorded = {"held_out_share": 0.2, "seed": 0}
    (tmp_path / "model" / "training.json").write_text(json.dumps({"split": recorded}))
    command = ("evaluate", protocol, tmp_path / "model", "--images", people)
    for seed, is_other in ((0, False), (3, True)):
        code, _, err = run(*command, "--output", tmp_path / "out", "--split-seed", seed)
        assert code == 0 and ("share of 0.2 and split seed 0" in err) == is_other, err
        split = json.loads((tmp_path / "out" / "results.json").read_text())[protocol]["split"]
        expected = {"held_out_share": 0.2, "seed": seed}
        assert split == (expected | {"trained_with": recorded} if is_other else expected)


def test_similar_and_walk_go_on_at_a_photo_that_cannot_be_read(run, fitted, photos, tmp_path):
    for name, file in (("a.jpg", photos[0]), ("b.jpg", photos[9])):
        (tmp_path / "some").mkdir(exist_ok=True)
        (tmp_path / "some" / name).write_bytes(file.read_bytes())
    (tmp_path / "some" / "broken.jpg").write_bytes(b"not a photo")
    code, out, _ = run("similar", fitted, tmp_path / "some", photos[0])
    assert code == 0 and len(out.splitlines()) == 2 and "broken" not in out
    code, _, err = run(
        "walk", fitted, photos[0], tmp_path / "walk.png", "--with", tmp_path / "some", "--without", tmp_path / "some"
    )
    assert code == 0 and (tmp_path / "walk.png").exists(), err


@pytest.mark.parametrize("command", ["denoise", "decompress", "restore", "walk", "swap"])
def test_a_picture_of_another_kind_is_refused_before_anything_is_loaded(run, photos, tmp_path, command):
    assert (options._PICTURES, options._ANIMATIONS) == (PICTURE_SUFFIXES, ANIMATION_SUFFIXES)
    films = ".gif, .mp4, " if command == "walk" else ""
    person = ["Ann"] if command == "swap" else []
    code, _, err = run(command, "nowhere", photos[0], *person, tmp_path / "out.bmp")
    assert code == 1 and f"out.bmp: expected a name that ends in one of {films}.png, .jpg, .jpeg, .webp\n" in err


@pytest.mark.parametrize(
    "command",
    [
        "morph A A",
        "walk A",
        "compress A",
        "decompress A",
        "denoise A",
        "inpaint B A",
        "restore A",
        "restore B --mask A",
        "swap A Ann",
        "explain B A",
        "similar . A --output",
    ],
)
def test_an_input_is_not_overwritten(run, photos, tmp_path, command):
    """Also under another name, and before anything is loaded."""
    for name in "AB":
        (tmp_path / f"{name}.png").write_bytes(photos[0].read_bytes())
    (tmp_path / "link").symlink_to(tmp_path)
    names = {"A": tmp_path / "A.png", "B": tmp_path / "B.png", ".": tmp_path}
    name, *arguments = command.split()
    model = [] if name == "explain" else ["nowhere"]
    code, _, err = run(name, *model, *(names.get(word, word) for word in arguments), tmp_path / "link" / "A.png")
    assert (
        code == 1
        and err == f"error: {tmp_path}/link/A.png would replace the input {names['A']}; choose another output\n"
    )
    assert (tmp_path / "A.png").read_bytes() == photos[0].read_bytes()


def test_denoise_and_inpaint_photos_of_any_size(run, photos, tmp_path):
    save_tiny_autoencoder(tmp_path / "model", tiny_restoration)
    save_tiny_autoencoder(tmp_path / "filler", tiny_restoration, inpainting=True)
    photo = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    assert run("denoise", tmp_path / "model", tmp_path / "photo.png", tmp_path / "out.png")[0] == 0
    assert np.abs(np.asarray(Image.open(tmp_path / "out.png")).astype(int) - photo).max() <= 1, "a new one corrects 0"
    mask = np.zeros((37, 50), np.uint8)
    mask[10:20, 10:20] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    files = [tmp_path / name for name in ("photo.png", "mask.png", "filled.png")]
    assert run("inpaint", tmp_path / "filler", *files)[0] == 0
    filled = np.asarray(Image.open(tmp_path / "filled.png"))
    assert np.array_equal(filled[mask == 0], photo[mask == 0]) and not np.array_equal(filled, photo)
    code, _, err = run("inpaint", tmp_path / "filler", tmp_path / "photo.png", photos[0], tmp_path / "x.png")
    assert code == 1 and "the mask is 24 x 24, the photo 37 x 50" in err
    code, _, err = run("inpaint", tmp_path / "model", *files)
    assert code == 1 and "does not fill holes" in err


def test_a_model_that_restores_has_no_latents(run, photos, tmp_path):
    save_tiny_autoencoder(tmp_path / "model", tiny_restoration)
    for command in (
        ("compress", tmp_path / "model", photos[0], tmp_path / "a.face"),
        ("fit-latents", tmp_path / "model", "--images", tmp_path / "nowhere"),  # before photos are looked for
    ):
        code, _, err = run(*command)
        assert code == 1 and "no latents" in err and "hfembed restore" in err, err


class OneFace:
    """A detector that finds a face of 24 pixels in the middle of photos of 60 x 50 pixels, and none in others."""

    def detect(self, pictures):
        points = torch.tensor(template_for_size(24, 24)) + torch.tensor([18.0, 13.0])
        found = points[None] if pictures[0].size in ((60, 50), (120, 100)) else points[None][:0]
        return [SimpleNamespace(landmarks=found * (pictures[0].width / 60))]


@pytest.fixture
def one_face(monkeypatch):
    monkeypatch.setattr(loading, "load_face_detector", lambda checkpoint, device: (OneFace(), None))


def test_restore_faces_or_the_whole_photo(run, one_face, model, tmp_path):
    settings = {"num_channels": 3, "inpainting": True, "fill": "smooth", "aligned_faces": True}
    save_tiny_autoencoder(tmp_path / "restorer", tiny_restoration, **settings)
    photo = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    Image.fromarray(photo[:, :, 0]).save(tmp_path / "gray.png")
    mask = np.zeros((50, 60), np.uint8)
    mask[20:30, 20:40] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    restore = ("restore", tmp_path / "restorer", tmp_path / "photo.png", tmp_path / "out.png")
    found = ("--detector", model)
    code, out, err = run(*restore, *found, "--json")
    assert code == 0 and json.loads(out) == {"faces": 1, "output": str(tmp_path / "out.png")}, err
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), photo), "a new one corrects nothing"
    code, out, _ = run(*restore, "--whole")
    assert code == 0 and np.abs(np.asarray(Image.open(tmp_path / "out.png")).astype(int) - photo).max() <= 1
    for where in (found, ("--whole",)):
        assert run(*restore, *where, "--mask", tmp_path / "mask.png")[0] == 0
        filled = np.asarray(Image.open(tmp_path / "out.png"))
        far = np.ones_like(mask)
        far[17:33, 17:43] = 0  # the aligned mask is that of a resampled picture
        assert np.array_equal(filled[far == 1], photo[far == 1])
        assert filled[22:28, 24:36].std() < 0.5 * photo[22:28, 24:36].std(), "smooth"
        assert run(*restore, *where, "--scale", 2, "--mask", tmp_path / "mask.png")[0] == 0
        assert Image.open(tmp_path / "out.png").size == (120, 100)
        assert run(*restore[:2], tmp_path / "gray.png", tmp_path / "out.png", *where)[0] == 0
        restored = np.asarray(Image.open(tmp_path / "out.png"))
        assert np.array_equal(restored, photo[:, :, 0]), "gray photos stay gray"
    Image.merge("LA", [Image.new("L", (60, 50), 255), Image.fromarray(mask)]).save(tmp_path / "clear.png")
    pages = []
    for name in ("mask", "clear"):
        assert run(*restore, "--whole", "--mask", tmp_path / f"{name}.png")[0] == 0
        pages.append((tmp_path / "out.png").read_bytes())
    assert pages[0] == pages[1], "what is transparent in a mask is not filled"


def test_morph_the_shape_of_faces(run, one_face, model, tmp_path):
    for name, seed in (("a.png", 0), ("b.png", 1)):
        photo = np.random.default_rng(seed).integers(0, 256, (50, 60, 3), dtype=np.uint8)
        Image.fromarray(photo).save(tmp_path / name)
    morph = ("morph", model, tmp_path / "a.png", tmp_path / "b.png", tmp_path / "out.png", "--steps", 3, "--scale", 1)
    code, _, err = run(*morph, "--shape", "--detector", model)
    assert code == 0, err
    assert Image.open(tmp_path / "out.png").size == (3 * SIZE + 4, SIZE)
    assert "give both" in run(*morph, "--detector", model)[2]
    Image.new("RGB", (30, 30)).save(tmp_path / "b.png")
    code, _, err = run(*morph, "--shape", "--detector", model)
    assert code == 1 and "no face was found in" in err and "b.png" in err


def test_what_restore_refuses_is_one_line(run, one_face, model, photos, tmp_path):
    settings = {"num_channels": 3, "fill": "smooth", "aligned_faces": True}
    save_tiny_autoencoder(tmp_path / "restorer", tiny_restoration, **settings)
    save_tiny_autoencoder(tmp_path / "filler", tiny_restoration, **settings, inpainting=True)
    save_tiny_autoencoder(tmp_path / "unaligned", tiny_restoration)
    save_tiny_autoencoder(tmp_path / "gaussian", tiny_restoration, inpainting=True)
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    Image.new("L", (24, 24)).save(tmp_path / "black.png")
    Image.new("L", (24, 23), 255).save(tmp_path / "small.png")
    whole = "--whole"
    for name, more, line in (
        ("restorer", (), "no face was found in .*--whole restores"),
        ("unaligned", (), "not trained on aligned faces .*--whole"),
        ("gaussian", (), "does not restore photos: train one"),
        (model, (), "does not restore photos: train one"),
        ("gaussian", (whole,), "does not restore photos: train one"),
        ("restorer", (whole, "--mask", tmp_path / "black.png"), "does not fill holes"),
        ("filler", (whole, "--mask", tmp_path / "black.png"), "mask covers nothing"),
        ("filler", (whole, "--mask", tmp_path / "small.png"), "the mask is 23 x 24, the photo 24 x 24"),
        ("filler", ("--mask", tmp_path / "damaged.png"), "damaged.png"),
        ("filler", ("--mask", tmp_path / "nowhere.png"), "nowhere.png: no such file"),
        ("restorer", (whole, "--detector", model), "give either it or --detector"),
        ("restorer", ("--overlap", 3), "tiles of --whole"),
        ("restorer", (whole, "--overlap", 3000), "overlap must lie between"),
    ):
        given = () if whole in more or "--detector" in more else ("--detector", model)
        code, _, err = run("restore", tmp_path / name, photos[0], tmp_path / "out.png", *more, *given)
        assert code == 1 and err.startswith("error: ") and err.count("\n") == 1 and re.search(line, err), (name, err)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (("morph", "MODEL", "PHOTO", "nowhere.jpg", "OUT.gif"), "nowhere.jpg"),
        (("morph", "MODEL", "PHOTO", "PHOTO", "OUT.avi"), "OUT.avi"),
        (("sample", "MODEL", "OUT.png"), "fit-latents"),
        (("sample", "MODEL", "OUT.png", "--method", "prior"), "variational"),
        (("walk", "MODEL", "PHOTO", "OUT.png", "--with", "PEOPLE"), "--without"),
        (("walk", "MODEL", "PHOTO", "OUT.png", "--with", "PEOPLE", "--without", "MODEL"), "contains no photos"),
        (("denoise", "MODEL", "MODEL/config.json", "OUT.png"), "config.json"),
        (("denoise", "MODEL", "PHOTO", "OUT.png"), "does not restore photos"),
        (("morph", "nowhere", "PHOTO", "PHOTO", "OUT.gif"), "nowhere"),
    ],
)
def test_bad_input_is_one_line(run, model, photos, people, tmp_path, command, named):
    places = {"MODEL": str(model), "PHOTO": str(photos[0]), "PEOPLE": str(people), "OUT": str(tmp_path / "OUT")}
    arguments = []
    for argument in command:
        for name, place in places.items():
            argument = argument.replace(name, place)
        arguments.append(argument)
    code, _, err = run(*arguments)
    assert code == 1 and err.startswith("error: ") and err.count("\n") == 1 and named in err
    assert not list(tmp_path.iterdir())


def test_a_model_with_skips_cannot_morph(run, photos, tmp_path):
    save_tiny_autoencoder(tmp_path / "model", tiny_restoration)
    code, _, err = run("morph", tmp_path / "model", *photos[:2], tmp_path / "a.gif")
    assert code == 1 and "no latents" in err
