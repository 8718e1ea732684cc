"""`hfembed models`: what is known by checksum is fetched, checked and converted; none of its code is run."""

import json
from dataclasses import replace
from hashlib import sha256

import pytest
from transformers import AutoModel

from hfembed.convert.get_checkpoint import get_checkpoint
from hfembed.convert.known_checkpoints import (
    KNOWN_CHECKPOINTS,
    KnownFile,
    Measurement,
    Source,
    known_checkpoint,
)
from hfembed.errors import InputError
from tests.cli.test_faces import hfembed  # noqa: F401
from tests.convert.test_mtcnn import SHAPES, write_foreign_files
from tests.hub.hub_client import ClientError
from tests.hub.hub_server import Blob


def known_files(folder, prefix=""):
    """MTCNN's three files, as the table has them."""
    contents = {name: (folder / name).read_bytes() for name in SHAPES}
    return tuple(KnownFile(prefix + name, sha256(data).hexdigest(), len(data)) for name, data in contents.items())


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that carries weights, and fails when it is imported."""
    (tmp_path / "site" / "weights_package" / "data").mkdir(parents=True)
    (tmp_path / "site" / "weights_package" / "__init__.py").write_text("raise RuntimeError('its code was run')\n")
    information = tmp_path / "site" / "weights_package-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: weights-package\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return write_foreign_files(tmp_path / "site" / "weights_package" / "data")


@pytest.fixture
def known(package):
    source = Source("package", "weights-package", known_files(package, "weights_package/data/"))
    return replace(known_checkpoint("mtcnn"), sources=(source,))


def test_a_checkpoint_in_a_package(known, tmp_path):
    assert get_checkpoint(known, tmp_path / "out").place == "weights-package"
    assert AutoModel.from_pretrained(tmp_path / "out").config.model_type == "hfembed_face_detector"
    assert known.sources[0].files[0].sha256 in (tmp_path / "out" / "training.json").read_text()


@pytest.mark.parametrize("fault", ["bytes", "size", "missing"])
def test_a_file_that_is_not_the_known_one_is_not_read(known, package, tmp_path, fault):
    weights = package / "rnet.pt"
    data = weights.read_bytes()
    weights.write_bytes(data + b"x" if fault == "size" else bytes([data[0] ^ 1]) + data[1:])
    if fault == "missing":
        weights.unlink()
    with pytest.raises(InputError, match=r"rnet\.pt.*(no such file|not the known rnet\.pt)") as caught:
        get_checkpoint(known, tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_file_that_was_downloaded_by_hand_is_checked_too(known, package, tmp_path):
    get_checkpoint(replace(known, sources=(replace(known.sources[0], kind="web"),)), tmp_path / "out", file=package)
    alone = replace(known, sources=(replace(known.sources[0], files=known.sources[0].files[:1]),), converter="mtcnn")
    with pytest.raises(InputError, match="not the known pnet.pt"):
        get_checkpoint(alone, tmp_path / "other", file=package / "rnet.pt")


def get_from_hub(files, revision, destination):
    from dataclasses import replace

    from hfembed.convert.get_checkpoint import get_checkpoint
    from hfembed.convert.known_checkpoints import KnownFile, Source, known_checkpoint

    sources = (
        Source("package", "package-that-is-not-installed", ()),
        Source("hub", "opencv/mtcnn", tuple(KnownFile(*file) for file in files), revision),
    )
    return str(get_checkpoint(replace(known_checkpoint("mtcnn"), sources=sources), destination))


def test_a_checkpoint_on_the_hub(hub, client, tmp_path):
    (tmp_path / "files").mkdir()
    files = known_files(write_foreign_files(tmp_path / "files"))
    repository = hub.create("opencv/mtcnn")
    blobs = {name: Blob((tmp_path / "files" / name).read_bytes(), large=True) for name in SHAPES}
    commit = repository.commit("main", blobs, "upload", "opencv").id
    repository.commit("main", {"pnet.pt": Blob(b"another", large=True)}, "change", "opencv")
    call = {"files": files, "revision": commit, "destination": tmp_path / "out"}
    # before anything is in the cache: one line with both ways out
    with pytest.raises(ClientError, match="pip install .hfembed.pretrained.*connect to the Hub once") as caught:
        client(get_from_hub, offline=True, **call)
    assert caught.value.kind == "InputError" and "\n" not in caught.value.message
    assert client(get_from_hub, **call) == "opencv/mtcnn:pnet.pt"
    client(get_from_hub, offline=True, **{**call, "destination": tmp_path / "again"})
    # another commit has another file
    with pytest.raises(ClientError, match=r"not the known pnet\.pt"):
        client(get_from_hub, **{**call, "revision": None, "destination": tmp_path / "third"})


def test_the_table(hfembed):  # noqa: F811
    listed = hfembed("models")
    records = {record["name"]: record for record in json.loads(hfembed("models", "--json"))["models"]}
    assert set(records) == set(KNOWN_CHECKPOINTS) >= {"yunet", "sface", "dlib", "mtcnn", "retinaface", "auraface"}
    for name, known in KNOWN_CHECKPOINTS.items():
        assert name in listed and known.license in listed
        assert known.commercial_use in ("yes", "no", "unclear") and known.note
        assert known.lfw is None or known.lfw.command.startswith("hfembed evaluate lfw"), name
        for file in known.sources[0].files:
            # two packages of files whose checksum nobody here has seen
            assert (file.sha256 is not None and file.size) or name.startswith("timm-"), name
    assert records["auraface"]["sources"][0]["place"] == "fal/AuraFace-v1"
    assert str(Measurement(99.123, 0.3, "")) == "99.12 +- 0.30 %"


def test_get(hfembed, known, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setitem(KNOWN_CHECKPOINTS, "mtcnn", known)
    answer = hfembed("models", "get", "mtcnn", tmp_path / "out")
    assert "MIT" in answer and f"written to {tmp_path / 'out'}" in answer
    assert "already exists" in hfembed("models", "get", "mtcnn", tmp_path / "out", fails=True)
    error = hfembed("models", "get", "arcface", tmp_path / "other", fails=True)
    assert "no known checkpoint 'arcface'; expected one of yunet" in error
