"""Checkpoint: notes of other weights are not used, damaged files are one line, a Hub checkpoint is not written to."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.fingerprint import fingerprint_weights
from hfembed.checkpoint.loading import load_autoencoder, load_face_embedder
from hfembed.checkpoint.results import write_results
from hfembed.errors import InputError
from tests.checkpoint.checkpoints import write_checkpoint

FACES, IMAGES = "hfembed_face_embedder", "hfembed_conv_autoencoder"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_checkpoint(FACES, tmp_path_factory.mktemp("checkpoint") / "faces")


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "faces")


def change_weights(folder, change=lambda tensor: tensor.add_(1)):
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name, tensor in sorted(tensors.items()) if tensor.is_floating_point())
    tensors[name] = change(tensors[name].clone())
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return name


def test_the_fingerprint_is_of_the_tensors_alone(folder):
    fingerprint = Checkpoint.resolve(folder).fingerprint
    tensors = {name: value.clone() for name, value in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt", "made": "today"})
    assert Checkpoint.resolve(folder).fingerprint == fingerprint
    # in shards
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for shard, inside in shards.items():
        save_file({name: tensors[name] for name in inside}, folder / shard, metadata={"format": "pt"})
    weight_map = {name: shard for shard, inside in shards.items() for name in inside}
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert Checkpoint.resolve(folder).fingerprint == fingerprint
    save_file({name: tensors[name] + 1 for name in names[9:]}, folder / shard, metadata={"format": "pt"})
    assert Checkpoint.resolve(folder).fingerprint != fingerprint


def test_notes_of_other_weights_are_ignored_with_a_line(folder, caplog):
    checkpoint = Checkpoint.resolve(folder)
    checkpoint.write_note("training.json", {"name": "tiny", "split": {"held_out_share": 0.2, "seed": 3}})
    checkpoint.store_thresholds(checkpoint.thresholds, mirror="sum")
    write_results(folder, "lfw_view2", {"lfw_view2_accuracy": 90.0}, {}, checkpoint)
    write_results(folder, "older", {"older_figure": 1.0}, {"figures": ["psnr"]})
    assert checkpoint.split == {"held_out_share": 0.2, "seed": 3} and checkpoint.results["lfw_view2_accuracy"] == 90.0
    assert load_face_embedder(folder, "cpu")[0].config.thresholds["far"] and checkpoint.config["mirror"] == "sum"
    change_weights(folder)
    assert not caplog.messages
    assert checkpoint.training == checkpoint.split == {} and checkpoint.thresholds is None
    # what older versions wrote carries no fingerprint and is taken
    assert checkpoint.results == {"older_figure": 1.0, "older": {"figures": ["psnr"]}}
    assert load_face_embedder(folder, "cpu")[0].config.thresholds is None
    for what in ("training.json", "'thresholds' in config.json", "'lfw_view2' in results.json"):
        assert sum(f"ignored {what}" in line for line in caplog.messages) == 1
    # a new evaluation leaves only results of these weights
    write_results(folder, "lfw_view1", {"lfw_view1_accuracy": 80.0}, {}, checkpoint)
    assert "lfw_view2_accuracy" not in json.loads((folder / "results.json").read_text())


def test_an_evaluation_replaces_its_own_results_alone(tmp_path):
    write_results(tmp_path, "swap", {"swap_psnr": 1.0}, {})
    write_results(tmp_path, "swap_strangers", {"swap_strangers_psnr": 2.0}, {})
    write_results(tmp_path, "swap", {"swap_ssim": 3.0}, {})
    assert json.loads((tmp_path / "results.json").read_text()) == {
        "swap_strangers_psnr": 2.0, "swap_strangers": {}, "swap_ssim": 3.0, "swap": {},
    }  # fmt: skip


def test_a_hub_checkpoint_is_not_written_to(folder):
    checkpoint = Checkpoint("ann/faces@v1", folder, "0" * 40)
    for write in (lambda: checkpoint.write_note("training.json", {}), lambda: checkpoint.store_thresholds({})):
        with pytest.raises(InputError, match="hf download ann/faces --local-dir"):
            write()


@pytest.mark.attack
def test_an_adapter_beside_the_weights_loads_no_other_model(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "mallory/model"}')
    for read in (lambda: load_face_embedder(folder, "cpu"), lambda: Checkpoint.resolve(folder).validate()):
        with pytest.raises(InputError, match="adapter_config.json, with which transformers loads other weights"):
            read()


@pytest.mark.attack
def test_a_deeply_nested_config_is_one_line(folder):
    (folder / "config.json").write_text('{"model_type": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(InputError, match="config.json.*nested too deeply") as caught:
        load_face_embedder(folder, "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"a": NaN}', "NaN is not a number"),
        ('{"a": 1e999}', "1e999 is out of range"),
        ('{"a": ' + "9" * 5000 + "}", "is not JSON"),
        ("[1]", "is not a JSON object"),
        ("\x00", "is not JSON"),
        ("", "is not JSON"),
    ],
    ids=["deep", "nan", "inf", "digits", "list", "zero", "empty"],
)
def test_a_damaged_note_is_one_line(folder, content, line):
    for file, read in (
        ("training.json", lambda c: c.training),
        ("results.json", lambda c: c.results),
        ("config.json", lambda c: load_face_embedder(c, "cpu")),
    ):
        (folder / file).write_text(content)
        with pytest.raises(InputError, match=line) as error:
            read(Checkpoint.resolve(folder))
        assert file in str(error.value) and "\n" not in str(error.value)


@pytest.mark.attack
def test_a_note_is_bounded_before_it_is_read(folder):
    with (folder / "training.json").open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(InputError, match="training.json has 1048576 MB"):
        _ = Checkpoint.resolve(folder).training


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_weight_that_is_not_finite_is_named(folder, value, dtype):
    def spoil(tensor):
        tensor.view(-1)[-1] = value
        return tensor.to(dtype)

    name = change_weights(folder, spoil)
    with pytest.raises(InputError, match=f"weight {name} is not finite"):
        load_face_embedder(folder, "cpu")
    with pytest.raises(InputError, match=f"weight {name} is not finite"):
        Checkpoint.resolve(folder).validate()


def test_an_index_that_no_loader_reads_counts_for_nothing(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    load_face_embedder(folder, "cpu")


@pytest.mark.attack
@pytest.mark.parametrize("shard", ["../other.safetensors", "/etc/passwd", "a/b.safetensors", "x.bin", 7, None])
def test_an_index_that_names_a_path_is_refused(folder, shard):
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(InputError, match="index.json names"):
        load_face_embedder(folder, "cpu")


def test_a_model_of_another_family_is_named(folder):
    with pytest.raises(InputError, match="hfembed_face_embedder, not an autoencoder"):
        load_autoencoder(folder, "cpu")
    with pytest.raises(InputError, match="names the revision v1"):
        Checkpoint.resolve("ann/faces@v1", revision="v2")
    assert load_face_embedder(folder, "cpu", torch.float64)[0].dtype == torch.float64


def save(folder, seed):
    from hfembed.checkpoint.saving import save_checkpoint

    save_checkpoint(folder, lambda new: write_checkpoint(FACES, new, seed))


def test_a_saved_model_takes_the_place_of_the_old_one_and_leaves_the_rest(folder):
    write_results(folder, "lfw_view2", {"lfw_view2_accuracy": 90.0}, {})
    (folder / "model.safetensors.index.json").write_text("{}")
    (folder / "checkpoints").mkdir()
    (folder / "LICENSE").write_text("mine")
    old = Checkpoint.resolve(folder).fingerprint
    save(folder, seed=0)  # the same weights: the results stay
    assert Checkpoint.resolve(folder).results and Checkpoint.resolve(folder).fingerprint == old
    save(folder, seed=1)
    checkpoint = Checkpoint.resolve(folder)
    assert checkpoint.fingerprint != old and checkpoint.results == {} and "seed 1" in checkpoint.training["data"]
    assert checkpoint.training["weights"] == checkpoint.fingerprint
    assert (folder / "checkpoints").is_dir() and (folder / "LICENSE").read_text() == "mine"
    assert not (folder / "model.safetensors.index.json").exists()
    assert not [path for path in folder.iterdir() if path.name.startswith(".sav")]


def test_killed_at_any_moment_a_save_leaves_the_old_model_or_the_new_one(original, tmp_path, monkeypatch):
    from hfembed.checkpoint import saving

    newer = write_checkpoint(FACES, tmp_path / "newer", seed=1)
    old, new = (Checkpoint.resolve(folder).fingerprint for folder in (original, newer))
    seen, moment = set(), 0
    while True:
        folder = shutil.copytree(original, tmp_path / str(moment))
        with monkeypatch.context() as patch:
            calls = []

            def dies(kind, do, calls=calls, moment=moment):
                def call(*args, **kwargs):
                    calls.append(kind)
                    if len(calls) > moment:
                        raise KeyboardInterrupt
                    return do(*args, **kwargs)

                return call

            for name in ("rename", "replace", "unlink"):
                patch.setattr(Path, name, dies(name, getattr(Path, name)))
            try:
                saving.save_checkpoint(folder, lambda new: shutil.copytree(newer, new, dirs_exist_ok=True))
            except KeyboardInterrupt:
                finished = False
            else:
                finished = True
        # who knows nothing of hfembed finds one whole model or none
        if (folder / "config.json").exists():
            assert fingerprint_weights(folder) in (old, new)
        found = Checkpoint.resolve(folder)
        found.validate()
        assert (found.fingerprint, "seed 1" in found.training["data"]) in ((old, False), (new, True))
        seen.add(found.fingerprint)
        if finished:
            break
        moment += 1
    assert seen == {old, new} and moment > 8


def test_thresholds_of_other_weights_do_not_travel(folder):
    from hfembed import FaceEmbedderForClassification, FaceEmbedderModel
    from hfembed.checkpoint.saving import save_checkpoint

    checkpoint = Checkpoint.resolve(folder)
    checkpoint.store_thresholds(checkpoint.thresholds)
    trained = FaceEmbedderForClassification.from_pretrained(folder)
    embedder = FaceEmbedderModel.from_pretrained(folder)
    save_checkpoint(folder, embedder.save_pretrained, same_model=True)  # without its head
    assert checkpoint.thresholds["weights"] == checkpoint.fingerprint
    with torch.no_grad():
        next(trained.parameters()).add_(1)
    save_checkpoint(folder, trained.save_pretrained)
    assert checkpoint.config["thresholds"] is None


@pytest.mark.parametrize("file", ["tokenizer.json", "vocab_counts.safetensors"])
def test_damaged_words_are_one_line(file, tmp_path):
    from hfembed.checkpoint.loading import load_word2vec

    folder = write_checkpoint("hfembed_word2vec", tmp_path / "words")
    (folder / file).write_bytes((folder / file).read_bytes()[:-40])
    for read in (lambda: load_word2vec(folder, "cpu"), Checkpoint.resolve(folder).validate):
        with pytest.raises(InputError) as error:
            read()
        assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_a_folder_has_no_revision(folder):
    with pytest.raises(InputError, match=r"faces is a folder; a revision \(v2\) applies to Hub repositories"):
        Checkpoint.resolve(folder, revision="v2")
