import json
import os
import zlib

import pytest
from transformers import CONFIG_MAPPING

from tests.checkpoint.checkpoints import FAMILIES, write_checkpoint
from tests.hub.hub_client import ClientError
from tests.hub.hub_server import Fault

FACES = "hfembed_face_embedder"


@pytest.fixture
def seed(request):
    """Another one a test: what was uploaded once is not uploaded again."""
    return zlib.crc32(request.node.nodeid.encode())


@pytest.fixture
def folder(tmp_path, seed):
    return write_checkpoint(FACES, tmp_path / "faces", seed)


def push(folder, repo_id, **options):
    from hfembed.checkpoint.push import push_folder

    return push_folder(folder, repo_id, **options).commit


def fingerprints(source, loaders, **options):
    from tests.checkpoint.checkpoints import fingerprint

    return {loader: fingerprint(source, loader, **options) for loader in loaders}


def load(repo_id, **options):
    from hfembed.checkpoint.loading import load_face_embedder

    model, _ = load_face_embedder(repo_id, "cpu", **options)
    return float(sum(parameter.double().abs().sum() for parameter in model.parameters()))


def load_words(repo_id):
    from hfembed.checkpoint.loading import load_word2vec

    load_word2vec(repo_id, "cpu")


def test_every_family_has_a_checkpoint_here():
    assert FAMILIES.keys() == {name for name in CONFIG_MAPPING if name.startswith("hfembed_")}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_comes_back_is_what_was_pushed(hub, client, tmp_path, seed, family):
    folder = write_checkpoint(family, tmp_path / "model", seed)
    loaders = [*FAMILIES[family].models, *FAMILIES[family].others]
    client(push, folder=folder, repo_id="ann/model")
    hub.requests.clear()
    pulled = client(fingerprints, source="ann/model", loaders=loaders)
    assert pulled == client(fingerprints, source=folder, loaders=loaders)
    assert len({loaded["weights"] for loaded in pulled.values() if "weights" in loaded}) > 0


def test_versions_branches_folders_and_the_cache(hub, client, folder, tmp_path, seed):
    newer = write_checkpoint(FACES, tmp_path / "newer", seed + 1)
    old, new = (client(load, repo_id=source) for source in (folder, newer))
    first = client(push, folder=folder, repo_id="ann/faces", tag="v1", private=True)
    client(push, folder=newer, repo_id="ann/faces")
    client(push, folder=newer, repo_id="ann/faces", revision="trial/1")

    def upload_into(folder, repo_id, path):
        from huggingface_hub import HfApi

        HfApi().upload_folder(repo_id=repo_id, folder_path=folder, path_in_repo=path)

    client(upload_into, folder=folder, repo_id="ann/faces", path="models/first")

    def load_all(first, elsewhere):
        from transformers import AutoConfig, AutoImageProcessor, AutoModel

        from hfembed import FaceEmbedderModel, FaceImageProcessor
        from hfembed.checkpoint.loading import load_face_embedder

        def total(model):
            return float(sum(parameter.double().abs().sum() for parameter in model.parameters()))

        found = {}
        for options in (
            {}, {"revision": "v1"}, {"revision": "trial/1"}, {"revision": first}, {"subfolder": "models/first"},
            {"cache_dir": elsewhere}, {"token": "token-ann"}, {"local_files_only": True},
        ):  # fmt: skip
            key = next(iter(options), "main")
            found[key] = [
                total(AutoModel.from_pretrained("ann/faces", **options)),
                total(FaceEmbedderModel.from_pretrained("ann/faces", **options)),
                total(load_face_embedder("ann/faces", "cpu", **options)[0]),
            ]
            assert AutoConfig.from_pretrained("ann/faces", **options).embedding_size == 12
            assert AutoImageProcessor.from_pretrained("ann/faces", **options).to_dict()
            assert FaceImageProcessor.from_pretrained("ann/faces", **options).to_dict()
            found[f"{key} {options.get(key, '')}"] = found.pop(key)
        found["@v1"] = [total(load_face_embedder("ann/faces@v1", "cpu")[0])] * 3
        return found

    found = client(load_all, first=first, elsewhere=tmp_path / "cache")
    expected = {"main ": new, "revision v1": old, "revision trial/1": new, f"revision {first}": old, "@v1": old}
    expected |= {"subfolder models/first": old, f"cache_dir {tmp_path / 'cache'}": new, "token token-ann": new}
    expected |= {"local_files_only True": new}
    assert found == {key: [value] * 3 for key, value in expected.items()}
    assert (tmp_path / "cache" / "models--ann--faces").is_dir()

    # without a network: from the cache, by name, tag and commit
    hub.requests.clear()
    for name in ("ann/faces", "ann/faces@v1", f"ann/faces@{first}"):
        assert client(load, repo_id=name, offline=True) == (new if name == "ann/faces" else old)
    assert client(fingerprints, source="ann/faces", loaders=FAMILIES[FACES].models, offline=True)
    assert not hub.requests
    # a Hub that fails: as fetched last, and said
    hub.faults = [Fault("", "status", times=1000, status=503)]
    assert client(load, repo_id="ann/faces") == new
    assert "the Hub cannot be reached" in client.output


def test_a_download_that_was_damaged_is_refused_by_name_and_can_be_repeated(hub, client, folder):
    client(push, folder=folder, repo_id="ann/faces")
    right = client(load, repo_id=folder)
    for kind in ("corrupt", "short"):
        client.forget()
        hub.faults = [Fault("GET /ann/faces/resolve/.*/model.safetensors", kind)]
        with pytest.raises(ClientError, match="model.safetensors") as error:
            client(load, repo_id="ann/faces")
        assert error.value.kind in ("InputError", "OSError") and "\n" not in error.value.message
        assert client(load, repo_id="ann/faces") == right
    # a connection that breaks is taken up again by the client itself
    client.forget()
    hub.faults = [Fault("GET /ann/faces/resolve/.*/model.safetensors", "cut")]
    assert client(load, repo_id="ann/faces") == right
    # what was altered in the cache
    blob = max((client.home / "hub").rglob("blobs/*"), key=lambda path: path.stat().st_size)
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    with pytest.raises(ClientError, match="model.safetensors is not what was pushed"):
        client(load, repo_id="ann/faces")
    assert client(load, repo_id="ann/faces") == right


def test_a_full_disk_is_said(hub, client, folder):
    def load_with_little_room(repo_id):
        import resource
        import signal

        from hfembed.checkpoint.loading import load_face_embedder

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
        try:
            load_face_embedder(repo_id, "cpu")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    client(push, folder=folder, repo_id="ann/faces")
    client.forget()
    with pytest.raises(ClientError, match="the disk is full") as error:
        client(load_with_little_room, repo_id="ann/faces")
    assert "\n" not in error.value.message
    assert client(load, repo_id="ann/faces")


def commit(repository, files):
    from tests.hub.hub_server import Blob

    repository.commit("main", {name: Blob(content) for name, content in files.items()}, "By hand", "ann")


def test_what_cannot_be_loaded_is_one_line(hub, client, folder, tmp_path):
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    config = json.loads(files["config.json"])
    weights = files.pop("model.safetensors")
    commit(hub.create("ann/pickled"), files | {"pytorch_model.bin": b"\x80\x04."})
    commit(hub.create("ann/empty"), files)
    commit(hub.create("ann/resnet"), files | {"config.json": b'{"model_type": "resnet"}'})
    commit(hub.create("ann/newer"), files | {"config.json": json.dumps(config | {"aperture": 3}).encode()})
    commit(hub.create("ann/odd"), files | {"config.json": json.dumps(config | {"embedding_size": "big"}).encode()})
    commit(hub.create("ann/broken"), files | {"config.json": b"{"})
    commit(hub.create("ann/cut"), files | {"model.safetensors": weights[:3000]})
    hub.create("bob/private", private=True)
    commit(hub.create("bob/gated"), files)
    hub.repositories["models", "bob/gated"].gated = True
    hub.create("ann/nothing")
    cases = [
        ("ann/missing", {}, "no such repository"),
        ("bob/private", {}, "your token may not see it"),
        ("bob/private", {"token": ""}, "if it is private, log in"),
        ("bob/gated", {}, "bob/gated is gated: ask for access"),
        ("bob/gated", {"token": ""}, "log in"),
        ("ann/empty", {"token": "token-nobodys"}, "does not know your token"),
        ("ann/empty@v9", {}, "no branch, tag or commit 'v9'"),
        ("ann/a b", {}, "no such folder, and not a valid repo id"),
        ("-ann/x..y", {}, "is not a valid repo id"),
        (tmp_path / "nowhere", {}, "no such folder"),
        ("ann/nothing", {}, "ann/nothing holds no model"),
        ("ann/pickled", {}, "pytorch_model.bin; pickle files are not loaded"),
        ("ann/empty", {}, "ann/empty lacks model.safetensors"),
        ("ann/resnet", {}, "unsupported model_type 'resnet'"),
        ("ann/newer", {}, "unknown key 'aperture'"),
        ("ann/odd", {}, "embedding_size"),
        ("ann/broken", {}, "config.json is not JSON"),
        ("ann/cut", {}, "model.safetensors is truncated or damaged"),
        ("ann/never-fetched", {"offline": True}, "never-fetched: no such folder; as a Hub id it is not in the cache"),
    ]
    for source, options, line in cases:
        with pytest.raises(ClientError) as error:
            client(load, repo_id=source, **options)
        assert error.value.kind in ("InputError", "HubUnavailableError"), client.output
        assert line in error.value.message and "\n" not in error.value.message, error.value.message

    with pytest.raises(ClientError, match="holds a model of type hfembed_face_embedder, not word vectors"):
        client(load_words, repo_id=folder)
    os.truncate(folder / "model.safetensors", 3000)
    with pytest.raises(ClientError, match="model.safetensors is truncated or damaged"):
        client(load, repo_id=folder)
