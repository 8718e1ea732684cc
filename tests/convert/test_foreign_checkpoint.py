"""Finding and reading foreign files, and refusing them in one line."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel

from hfembed.atomic import check_destination
from hfembed.convert.foreign_checkpoint import (
    check_layout,
    fill,
    find_file,
    read_state_dict,
    weights_of,
    write_checkpoint,
)
from hfembed.convert.insightface import convert_insightface
from hfembed.errors import InputError
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel

STATE = {
    "module.conv.weight": torch.arange(6.0).view(2, 3),
    "module.bn.num_batches_tracked": torch.tensor(7),
    "module.bn.bias": torch.ones(2),
}


def save_zip(content, path):
    torch.save(content, path)


def save_legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"epoch": 3, "state_dict": state}])
@pytest.mark.parametrize("save", [save_zip, save_legacy, save_file])
def test_every_format_reads_the_same(save, wrap, tmp_path):
    if save is save_file:
        wrap = dict
    file = tmp_path / ("net.safetensors" if save is save_file else "net.pth")
    save(wrap(STATE), file)
    state = read_state_dict(file)
    assert set(state) == {"conv.weight", "bn.bias"}
    assert torch.equal(state["conv.weight"], STATE["module.conv.weight"])


def test_a_truncated_safetensors_file_is_refused(tmp_path):
    save_file(STATE, tmp_path / "net.safetensors")
    whole = (tmp_path / "net.safetensors").read_bytes()
    for length in (0, 5, 40, len(whole) - 1):
        (tmp_path / "net.safetensors").write_bytes(whole[:length])
        with pytest.raises(InputError, match="net.safetensors is damaged") as caught:
            read_state_dict(tmp_path / "net.safetensors")
        assert "\n" not in str(caught.value)


def test_a_folder_gives_its_only_weights_or_the_preferred_ones(tmp_path):
    (tmp_path / "README.md").touch()
    with pytest.raises(InputError, match="holds no file of weights"):
        find_file(str(tmp_path))
    (tmp_path / "a.pt").touch()
    assert find_file(str(tmp_path)) == tmp_path / "a.pt"
    (tmp_path / "b.pth").touch()
    with pytest.raises(InputError, match=r"2 files of weights \(a.pt, b.pth\): name one"):
        find_file(str(tmp_path))
    assert find_file(str(tmp_path), ("model.safetensors", "b.pth")) == tmp_path / "b.pth"
    assert find_file(str(tmp_path / "a.pt")) == tmp_path / "a.pt"


@pytest.mark.parametrize("source", ["nowhere.pt", "a/b/c.pt", "nobody/nothing", "nobody/nothing:net.pt"])
def test_what_is_nowhere_is_named_in_one_line(source):
    with pytest.raises(InputError, match=source) as caught:
        find_file(source)
    assert "\n" not in str(caught.value)


def test_differences_are_told_by_kind():
    tensors = {"a": torch.zeros(2), "b": torch.zeros(3), **{f"x{index}": torch.zeros(1) for index in range(5)}}
    check_layout(tensors, {key: value.shape for key, value in tensors.items()}, "net.pt", "a Net")
    with pytest.raises(InputError) as caught:
        check_layout(tensors, {"a": (2, 1), "b": (3,), "c": (1,)}, "net.pt", "a Net")
    assert str(caught.value) == (
        "net.pt is not a Net: 1 missing (c); 5 unexpected (x0, x1, x2, ...); 1 of another shape (a (2,) instead of "
        "(2, 1))"
    )


def test_a_taken_destination_is_refused_unless_told(tmp_path):
    for free in (tmp_path / "new", tmp_path):
        check_destination(free, overwrite=False)
    (tmp_path / "file").touch()
    for taken in (tmp_path, tmp_path / "file"):
        check_destination(taken, overwrite=True)
        with pytest.raises(InputError, match="--overwrite"):
            check_destination(taken, overwrite=False)


def test_the_written_folder_is_whole_and_loads(tmp_path):
    (tmp_path / "net.pt").write_bytes(b"x")
    config = FaceEmbedderConfig(
        trunk="iresnet", trunk_arguments={"depths": [1], "widths": [4]}, image_size=[8, 8], embedding_size=6
    )
    model = FaceEmbedderModel(config)
    weights = {key: torch.rand_like(value) for key, value in weights_of(model).items()}
    fill(model, weights)
    with pytest.raises(RuntimeError, match="projection.weight"):
        fill(model, {key: value for key, value in weights.items() if key != "projection.weight"})
    write_checkpoint(
        tmp_path / "out", model, FaceImageProcessor(size=8), [tmp_path / "net.pt"], "its/trainer", "Note."
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("config.json", "model.safetensors", "preprocessor_config.json", "training.json", "README.md")
    }
    training = json.loads((tmp_path / "out" / "training.json").read_text())
    assert "net.pt" in training["source"] and "its/trainer" in training["source"] and training["note"] == "Note."
    assert "its/trainer" in (tmp_path / "out" / "README.md").read_text()
    loaded = AutoModel.from_pretrained(tmp_path / "out")
    for key, value in weights.items():
        assert torch.equal(loaded.state_dict()[key], value), key


def test_weights_that_are_not_finite_are_refused(tmp_path):
    torch.save({"fc.weight": torch.tensor([1.0, float("nan")])}, tmp_path / "nan.pth")
    with pytest.raises(InputError, match="non-finite numbers, in 'fc.weight'"):
        read_state_dict(tmp_path / "nan.pth")


@pytest.mark.attack
@pytest.mark.parametrize("file", ["../../x.pth", "/etc/passwd", "a/../../b.pth", "..\\x.pth"])
def test_a_name_on_the_hub_leads_out_of_no_folder(file):
    with pytest.raises(InputError, match="not a path inside a repository"):
        find_file(f"owner/name:{file}")


@pytest.mark.attack
def test_an_absurd_number_of_stages_is_no_endless_loop(tmp_path):
    tensors = {f"layer{10**9}.0.conv2.weight": torch.zeros(1, 1, 3, 3), "fc.weight": torch.zeros(1, 1)}
    torch.save(tensors, tmp_path / "stages.pth")
    with pytest.raises(InputError, match="is not an IResNet"):
        convert_insightface(str(tmp_path / "stages.pth"), tmp_path / "out")
