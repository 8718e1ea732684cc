"""A checkpoint that brings its code, from the Hub to a process that has no hfembed."""

import json

import pytest

from tests.checkpoint.checkpoints import FAMILIES, write_checkpoint
from tests.hub.hub_client import HubClient

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stranger(running_hub, tmp_path_factory):
    """Somebody who has transformers alone."""
    hub, _ = running_hub
    client = HubClient(hub.url, tmp_path_factory.mktemp("stranger"), "token-bob", has_hfembed=False)
    yield client
    client.close()


def export_and_push(folder, exported, repo_id):
    from hfembed.checkpoint.push import push_folder
    from hfembed.export.with_code import export_with_code

    export_with_code(folder, exported)
    return push_folder(exported, repo_id, private=False).commit


def use(source, classes, remote, **options):
    """What every Auto class makes of the same input, as digests."""
    import hashlib
    import json
    import sys

    import numpy as np
    import torch
    import transformers
    from PIL import Image

    if not remote:
        import hfembed  # noqa: F401

    found = {}
    torch.manual_seed(0)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))
    inputs = {"input_ids": torch.tensor([[1, 2, 3], [4, 5, 9]])}
    for name in classes:
        loader = getattr(transformers, name)
        loaded = loader.from_pretrained(source, trust_remote_code=remote, **options)
        assert type(loaded).__module__.startswith("transformers_modules.") is remote or "Tokenizer" in name
        if isinstance(loaded, transformers.BaseImageProcessor):
            pixels = loaded([photo])["pixel_values"]
            inputs = {"pixel_values": torch.stack([torch.as_tensor(image) for image in pixels])}
            tensors = inputs
        elif isinstance(loaded, transformers.PreTrainedModel):
            for tensor in (*loaded.parameters(), *loaded.buffers()):
                tensor.data = tensor.data.clone()
            if loaded.config.model_type in ("hfembed_face_swap", "hfembed_identity_swap"):
                inputs["labels"] = torch.tensor([1])
            with torch.no_grad():
                network = loaded.base_model if "input_ids" in inputs else loaded
                tensors = dict(loaded.state_dict()) | dict(network(**inputs))
        elif name == "AutoConfig":
            settings = {
                key: value for key, value in loaded.to_dict().items() if key not in ("_name_or_path", "auto_map")
            }
            found[name] = json.dumps(settings, sort_keys=True, default=str)
            continue
        else:
            found[name] = json.dumps(loaded.get_vocab(), sort_keys=True)
            continue
        digest = hashlib.sha256()
        for key, value in sorted(tensors.items()):
            if torch.is_tensor(value):
                digest.update(key.encode() + value.contiguous().numpy().tobytes())
        found[name] = digest.hexdigest()
    assert not remote or sys.modules["hfembed"] is None
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_without_hfembed_the_numbers_are_the_same(hub, client, stranger, tmp_path, family):
    folder = write_checkpoint(family, tmp_path / "model", seed=7)
    repo_id = f"ann/{family}"
    commit = client(export_and_push, folder=folder, exported=tmp_path / "exported", repo_id=repo_id)
    files = hub.files(repo_id)
    assert any(path.endswith(".py") for path in files)
    auto_map = [*json.loads(files["config.json"])["auto_map"]]
    # the processor first: the models look at what it made
    companion = ["AutoTokenizer"] if family == "hfembed_word2vec" else ["AutoImageProcessor"]
    classes = companion + [name for name in auto_map if name not in companion]
    ours = client(use, source=folder, classes=classes, remote=False)
    assert len(ours) == len(classes) >= 3
    pinned = {"revision": commit, "code_revision": commit}
    assert stranger(use, source=repo_id, classes=classes, remote=True) == ours
    assert stranger(use, source=repo_id, classes=classes, remote=True, **pinned) == ours
    # and again without a network
    assert stranger(use, source=repo_id, classes=classes, remote=True, offline=True) == ours
