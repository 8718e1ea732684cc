"""`hfembed export --with-code`: the folder gives the same numbers where hfembed does not exist."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoTokenizer,
)
from typer.testing import CliRunner

from hfembed import (
    FaceEmbedderConfig,
    FaceEmbedderForClassification,
    FaceEmbedderModel,
    FaceImageProcessor,
)
from hfembed.cli import app
from hfembed.export.with_code import export_with_code
from tests.checkpoint.checkpoints import FAMILIES, write_checkpoint
from tests.conftest import REPOSITORY
from tests.hub.hub_server import Blob

# The process of somebody who has transformers and not hfembed; one without timm or gensim unless a trunk needs it.
# For each folder below the first argument: what every Auto class of its auto_map makes of the photos or ids there.
ELSEWHERE = """
import json, pathlib, sys
root, *missing = sys.argv[1:]
for name in missing:
    sys.modules[name] = None
import numpy as np, torch, transformers
for folder in sorted(pathlib.Path(root).iterdir()):
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert type(config).__module__.startswith("transformers_modules."), type(config)
    results = {}
    if (folder / "photos.npy").exists():
        processor = transformers.AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
        assert type(processor).__module__.startswith("transformers_modules."), type(processor)
        inputs = processor(list(np.load(folder / "photos.npy")))["pixel_values"]
        results["pixel_values"] = torch.stack(list(inputs))  # a list of photos, or a batch
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        inputs = tokenizer("king queen and king", return_tensors="pt").input_ids
    for name in auto_map:
        if name.startswith("AutoModel"):
            model = getattr(transformers, name).from_pretrained(folder, trust_remote_code=True).eval()
            assert type(model).__module__.startswith("transformers_modules."), type(model)
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.data = tensor.data.clone()
            with torch.no_grad():
                # what only trains has nothing to say about an input alone
                labels = {"labels": torch.arange(2)} if hasattr(config, "people") else {}
                outputs = model.state_dict() if name == "AutoModelForPreTraining" else model(inputs, **labels)
            results |= {f"{name}.{key}": value for key, value in outputs.items() if torch.is_tensor(value)}
    torch.save(results, folder / "results.pt")
assert not any(name == "hfembed" or name.startswith("hfembed.") for name, module in sys.modules.items() if module)
"""


def here(folder):
    """The same, by hfembed's own classes."""
    results = {}
    if (folder / "photos.npy").exists():
        inputs = AutoImageProcessor.from_pretrained(folder)(list(np.load(folder / "photos.npy")))["pixel_values"]
        results["pixel_values"] = torch.stack(list(inputs))  # a list of photos, or a batch
    else:
        inputs = AutoTokenizer.from_pretrained(folder)("king queen and king", return_tensors="pt").input_ids
    for auto_class in (AutoModel, AutoModelForImageClassification, AutoModelForPreTraining):
        name = auto_class.__name__
        if name in json.loads((folder / "config.json").read_text())["auto_map"]:
            model = auto_class.from_pretrained(folder).eval()
            assert type(model).__module__.startswith("hfembed.models.")
            # out of the file's memory, whose addresses decide which path a convolution takes: the last bit differs
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.data = tensor.data.clone()
            with torch.no_grad():
                labels = {"labels": torch.arange(2)} if hasattr(model.config, "people") else {}
                outputs = model.state_dict() if auto_class is AutoModelForPreTraining else model(inputs, **labels)
            results |= {f"{name}.{key}": value for key, value in outputs.items() if torch.is_tensor(value)}
    return results


def shuffle_statistics(model):
    """Statistics, norms and biases that differ from their start, so that losing them shows."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.dim() < 2 and tensor.is_floating_point():
                tensor.add_(0.5 * torch.rand_like(tensor))
    return model


def save_face_embedder(folder, size=(64, 64), model_class=FaceEmbedderForClassification, **fields):
    torch.manual_seed(0)
    config = FaceEmbedderConfig(image_size=list(size), embedding_size=24, num_labels=5, **fields)
    shuffle_statistics(model_class(config)).save_pretrained(folder)
    FaceImageProcessor(size=list(size)).save_pretrained(folder)
    save_photos(folder)


def save_family(folder, model_type):
    write_checkpoint(model_type, folder)
    if (folder / "preprocessor_config.json").exists():
        save_photos(folder)


def save_photos(folder):
    photos = np.random.default_rng(0).integers(0, 256, (2, 90, 80, 3), dtype=np.uint8)
    np.save(folder / "photos.npy", photos)


def check(folders, tmp_path, missing):
    """Export each, load all in one other process, compare to the bit."""
    for name, save in folders.items():
        save(tmp_path / "saved" / name)
        done = CliRunner().invoke(
            app, ["export", "--with-code", str(tmp_path / "saved" / name), str(tmp_path / "out" / name)]
        )
        assert done.exit_code == 0, done.output or done.exception
        if (tmp_path / "saved" / name / "photos.npy").exists():
            shutil.copy(tmp_path / "saved" / name / "photos.npy", tmp_path / "out" / name)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    # the last bit of a sum depends on how many threads share it, and other tests set their number
    environment |= {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    done = subprocess.run(
        [sys.executable, "elsewhere.py", str(tmp_path / "out"), "hfembed", *missing],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    for name in folders:
        folder = tmp_path / "out" / name
        expected, found = here(folder), torch.load(folder / "results.pt", weights_only=True)
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            # a head that no checkpoint holds is another at every start
            if name == "base" and key == "AutoModelForImageClassification.logits":
                continue
            assert torch.equal(value, found[key]), (name, key)


def test_every_family_loads_elsewhere(tmp_path):
    folders = {family: lambda folder, family=family: save_family(folder, family) for family in FAMILIES}
    check(folders, tmp_path, missing=("timm", "gensim"))


OURS = ["iresnet18", "iresnet34", "iresnet50", "iresnet100", "vit_t", "mobilefacenet"]
TIMM = ["test_resnet", "test_vit", "test_convnext", "resnetblur18", "swin_tiny_patch4_window7_224"]


@pytest.mark.slow
def test_every_trunk_loads_elsewhere(tmp_path):
    folders = {trunk: lambda folder, trunk=trunk: save_face_embedder(folder, trunk=trunk) for trunk in OURS}
    folders |= {
        f"{head}-{pooling}": lambda folder, head=head, pooling=pooling: save_face_embedder(
            folder, trunk="mobilefacenet", head=head, pooling=pooling, mirror="sum"
        )
        for head, pooling in (("softmax", "flatten"), ("cosface", "average"), ("arcface", "depthwise"))
    }
    folders["inception_resnet_v1"] = lambda folder: save_face_embedder(folder, (96, 80), trunk="inception_resnet_v1")
    folders["sface"] = lambda folder: save_face_embedder(folder, trunk="sface")
    folders["dlib_resnet29"] = lambda folder: save_face_embedder(folder, (150, 150), trunk="dlib_resnet29")
    folders["base"] = lambda folder: save_face_embedder(folder, model_class=FaceEmbedderModel, trunk="mobilefacenet")
    check(folders, tmp_path, missing=("timm", "gensim"))


@pytest.mark.slow
def test_timm_trunks_load_elsewhere(tmp_path):
    folders = {
        trunk: lambda folder, trunk=trunk: save_face_embedder(folder, trunk=f"timm/{trunk}", bn_neck=False)
        for trunk in TIMM
    }
    check(folders, tmp_path, missing=("gensim",))


# from the Hub, transformers asks for every package that any of the files imports outside a `try`
FROM_THE_HUB = """
import sys
for name in ("hfembed", "timm", "gensim"):
    sys.modules[name] = None
import numpy as np, torch
from transformers import AutoImageProcessor, AutoModel
processor = AutoImageProcessor.from_pretrained("ann/face", trust_remote_code=True)
model = AutoModel.from_pretrained("ann/face", trust_remote_code=True).eval()
with torch.no_grad():
    torch.save(model(processor(list(np.load("photos.npy")))["pixel_values"]).embeddings, "embeddings.pt")
"""


@pytest.mark.slow
def test_it_loads_from_the_hub_with_transformers_alone(hub, tmp_path):
    save_face_embedder(tmp_path / "saved", trunk="mobilefacenet")
    done = CliRunner().invoke(app, ["export", "--with-code", str(tmp_path / "saved"), str(tmp_path / "out")])
    assert done.exit_code == 0, done.output or done.exception
    shutil.copy(tmp_path / "saved" / "photos.npy", tmp_path / "out")  # of the test, not of the checkpoint
    files = {
        path.name: Blob(path.read_bytes(), large=path.suffix == ".safetensors")
        for path in (tmp_path / "out").iterdir()
    }
    hub.create("ann/face").commit("main", files, "upload", "ann")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHONPATH"))}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FROM_THE_HUB],
        cwd=tmp_path / "out",
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    expected = here(tmp_path / "out")["AutoModel.embeddings"]
    assert torch.equal(torch.load(tmp_path / "out" / "embeddings.pt", weights_only=True), expected)


def test_the_folder_is_the_checkpoint_and_its_code(tmp_path):
    save_face_embedder(tmp_path / "saved", trunk="mobilefacenet")
    (tmp_path / "saved" / "README.md").write_text("# Card\n")
    (tmp_path / "saved" / "results.json").write_text("{}")
    (tmp_path / "saved" / "checkpoints" / "step_10").mkdir(parents=True)
    command = ["export", "--with-code", str(tmp_path / "saved"), str(tmp_path / "out")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and "AutoModelForImageClassification" in done.stdout
    assert not (tmp_path / "out" / "checkpoints").exists()
    for name in ("model.safetensors", "results.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "saved" / name).read_bytes()
    assert "trust_remote_code=True" in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_face_embedder.FaceEmbedderConfig",
        "AutoModel": "modeling_face_embedder.FaceEmbedderModel",
        "AutoModelForImageClassification": "modeling_face_embedder.FaceEmbedderForClassification",
    }
    # with hfembed there, its own classes win, and nobody is asked to trust anything
    assert type(AutoConfig.from_pretrained(tmp_path / "out")) is FaceEmbedderConfig
    assert type(AutoImageProcessor.from_pretrained(tmp_path / "out")) is FaceImageProcessor
    # exporting what was exported is the same again
    again = CliRunner().invoke(app, ["export", str(tmp_path / "out"), str(tmp_path / "again"), "--with-code"])
    assert again.exit_code == 0
    assert {path.name for path in (tmp_path / "again").iterdir()} == {
        path.name for path in (tmp_path / "out").iterdir()
    }
    taken = CliRunner().invoke(app, command)
    assert taken.exit_code == 1 and "--overwrite" in str(taken.exception)
    assert CliRunner().invoke(app, [*command, "--overwrite"]).exit_code == 0


def test_an_embedders_own_detector_brings_its_code_too(tmp_path):
    write_checkpoint("hfembed_face_embedder", tmp_path / "saved")
    write_checkpoint("hfembed_face_detector", tmp_path / "saved" / "detector")
    export_with_code(str(tmp_path / "saved"), tmp_path / "out")
    for name, family in (("", "face_embedder"), ("detector", "face_detector")):
        auto_map = json.loads((tmp_path / "out" / name / "config.json").read_text())["auto_map"]
        assert auto_map["AutoModel"].startswith(f"modeling_{family}.")
        # transformers looks for all of it where the repository begins
        assert (tmp_path / "out" / f"modeling_{family}.py").is_file()


def test_families_name_their_files_differently():
    files = [path.name for path in REPOSITORY.glob("hfembed/models/*/*.py") if path.name != "__init__.py"]
    shared = {name for name in files if files.count(name) > 1}
    assert not shared, f"side by side in one folder these would be one: {shared}"


def test_what_needs_no_code_or_is_nothing_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    for source, words in ((tmp_path, "unsupported model_type 'vit'"), (tmp_path / "nowhere", "no such folder")):
        done = CliRunner().invoke(app, ["export", "with-code", str(source), str(tmp_path / "out")])
        assert done.exit_code == 1 and words in str(done.exception) and "\n" not in str(done.exception)
    assert CliRunner().invoke(app, ["export", "with-code", str(tmp_path)]).exit_code == 2
    assert not (tmp_path / "out").exists()


def test_the_formats_stay_sub_commands():
    for name in ("onnx", "word2vec", "gensim", "with-code"):
        done = CliRunner().invoke(app, ["export", name, "--help"])
        assert done.exit_code == 0, done.output
