"""Foreign checkpoints by their Hub ids, from the tests' Hub."""

import pytest
import torch
from transformers import AutoConfig, AutoImageProcessor

from tests.convert.foreign_networks import check_equal
from tests.convert.test_iresnets import DEPTHS, IResNets, adaface_state_dict
from tests.convert.test_timm_face import write_checkpoint
from tests.hub.hub_client import ClientError
from tests.hub.hub_server import Blob


def upload(hub, repo, folder):
    files = {
        path.relative_to(folder).as_posix(): Blob(path.read_bytes(), large=path.suffix in (".pt", ".safetensors"))
        for path in folder.rglob("*")
        if path.is_file()
    }
    hub.create(repo).commit("main", files, "upload", repo.split("/")[0])


def convert_timm_face(source, destination):
    from hfembed.convert.timm_face import convert_timm_face

    convert_timm_face(source, destination)


def convert_cvlface(source, destination):
    from hfembed.convert.adaface import convert_cvlface

    convert_cvlface(source, destination)


def test_timm_face(hub, client, tmp_path):
    write_checkpoint(tmp_path / "repo", "test_vit", {"img_size": 112})
    upload(hub, "gaunernst/tiny", tmp_path / "repo")
    client(convert_timm_face, source="gaunernst/tiny", destination=tmp_path / "out")
    assert AutoConfig.from_pretrained(tmp_path / "out").trunk == "timm/test_vit"
    # nothing is fetched that is not needed
    assert not any("pytorch_model" in request for request in hub.requests)


def test_cvlface_with_its_settings_beside_it(hub, client, tmp_path):
    torch.manual_seed(0)
    state = adaface_state_dict(DEPTHS["r18"])
    (tmp_path / "repo" / "pretrained_model").mkdir(parents=True)
    torch.save({f"net.{key}": value for key, value in state.items()}, tmp_path / "repo/pretrained_model/model.pt")
    (tmp_path / "repo" / "pretrained_model" / "model.yaml").write_text("color_space: BGR\n")
    (tmp_path / "repo" / "wrapper.py").write_text("raise RuntimeError('nothing from a repository is run')\n")
    upload(hub, "minchul/cvlface", tmp_path / "repo")
    for number, source in enumerate(("minchul/cvlface", "minchul/cvlface:pretrained_model/model.pt")):
        client(convert_cvlface, source=source, destination=tmp_path / f"out{number}")
        assert AutoImageProcessor.from_pretrained(tmp_path / f"out{number}").color == "bgr"
        check_equal(tmp_path / f"out{number}", IResNets(state, DEPTHS["r18"]).adaface, (112, 112), 127.5, bgr=True)


def test_what_the_hub_has_not_is_named_in_one_line(hub, client, tmp_path):
    hub.create("ann/empty")
    for source, words in (
        ("ann/nothing", "ann/nothing: no such file, and it could not be fetched"),
        ("ann/empty", "ann/empty holds no file of weights"),
        ("ann/empty:model.pt", "ann/empty:model.pt: no such file, and it could not be fetched"),
    ):
        with pytest.raises(ClientError, match=words) as caught:
            client(convert_cvlface, source=source, destination=tmp_path / "out")
        assert caught.value.kind == "InputError" and "\n" not in caught.value.message
