import contextlib
import json
import os
import shutil
import zlib

import pytest
import torch
from huggingface_hub import ModelCard

from tests.checkpoint.checkpoints import write_checkpoint
from tests.hub.hub_client import ClientError
from tests.hub.hub_server import Fault

FACES, WORDS = "hfembed_face_embedder", "hfembed_word2vec"
ATTRIBUTES = "initial commit"


@pytest.fixture
def seed(request):
    """Another one a test: what was uploaded once is not uploaded again."""
    return zlib.crc32(request.node.nodeid.encode())


@pytest.fixture
def folder(tmp_path, seed):
    return write_checkpoint(FACES, tmp_path / "faces", seed)


def push(folder, repo_id, **options):
    from hfembed.checkpoint.push import push_folder

    return vars(push_folder(folder, repo_id, **options))


def run_command(client, *arguments, **options):
    """The `hfembed` command's exit code and what it printed."""

    def call(arguments):
        import sys

        from hfembed.cli import main

        sys.argv = ["hfembed", *arguments]
        try:
            main()
        except SystemExit as ended:
            return ended.code or 0

    code = client(call, arguments=[str(argument) for argument in arguments], **options)
    return code, client.output


def test_a_folder_becomes_one_commit_and_the_same_folder_none(hub, client, folder):
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "optimizer.bin").write_bytes(b"not shared")
    (folder / ".half.png").write_bytes(b"not shared")
    pushed = client(push, folder=folder, repo_id="ann/faces")
    assert pushed["changed"] and pushed["url"] == f"{hub.url}/ann/faces"
    assert hub.titles("ann/faces") == ["Upload model", ATTRIBUTES]
    files = hub.files("ann/faces")
    expected = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name[0] != "."}
    # the card's code loads the model from where it is now
    assert 'from_pretrained("ann/faces")' in files["README.md"].decode()
    assert 'from_pretrained("tiny")' in expected["README.md"].decode()
    assert pushed["private"]  # trained on photos of people
    assert files | {"README.md": expected["README.md"]} == expected

    hub.requests.clear()
    again = client(push, folder=folder, repo_id="ann/faces")
    assert not again["changed"] and again["commit"] == pushed["commit"]
    assert hub.titles("ann/faces") == ["Upload model", ATTRIBUTES]
    assert not any("preupload" in request for request in hub.requests)


def test_a_new_version_replaces_all_parts_of_the_old_and_nothing_else(hub, client, folder, tmp_path):
    client(push, folder=folder, repo_id="ann/model")
    extra = client(
        upload_bytes, repo_id="ann/model", files={"LICENSE": "mine", "model-00001-of-00002.safetensors": "old"}
    )
    assert extra
    pushed = client(push, folder=write_checkpoint(WORDS, tmp_path / "words"), repo_id="ann/model")
    files = hub.files("ann/model")
    assert pushed["changed"] and files["LICENSE"] == b"mine"
    assert "preprocessor_config.json" not in files and "model-00001-of-00002.safetensors" not in files
    assert hub.titles("ann/model")[0] == "Upload model" and len(hub.titles("ann/model")) == 4


def test_an_analyzer_is_pushed_with_its_detector(hub, client, folder, tmp_path):
    write_checkpoint("hfembed_face_detector", folder / "detector")
    client(push, folder=folder, repo_id="ann/analyzer")
    files = hub.files("ann/analyzer")
    assert files["detector/model.safetensors"] == (folder / "detector" / "model.safetensors").read_bytes()
    (folder / "detector" / "model.safetensors").unlink()
    with pytest.raises(ClientError, match="detector lacks model.safetensors"):
        client(push, folder=folder, repo_id="ann/analyzer")
    client(upload_bytes, repo_id="ann/analyzer", files={"onnx/config.json": "{}"})
    shutil.rmtree(folder / "detector")
    client(push, folder=folder, repo_id="ann/analyzer")
    assert not any(path.startswith("detector/") and path != "detector/README.md" for path in hub.files("ann/analyzer"))
    assert "onnx/config.json" in hub.files("ann/analyzer")


def upload_bytes(repo_id, files):
    from huggingface_hub import CommitOperationAdd, HfApi

    operations = [CommitOperationAdd(path, content.encode()) for path, content in files.items()]
    return HfApi().create_commit(repo_id, operations, commit_message="By hand").oid


def test_branches_tags_private_and_short_names(hub, client, folder, tmp_path, seed):
    code, out = run_command(client, "push", folder, "faces", "--private", "--tag", "v1")
    repository = hub.repositories["models", "ann/faces"]
    assert code == 0 and "pushed: " in out and repository.private
    main = repository.branches["main"]
    assert repository.tags == {"v1": main}

    newer = write_checkpoint(FACES, tmp_path / "newer", seed + 1)
    client(push, folder=newer, repo_id="faces", revision="trial/1")
    assert repository.branches["main"] == main and repository.branches["trial/1"] != main
    # a tag does not move, and nothing is uploaded for one that would have to
    with pytest.raises(ClientError, match="has a tag v1 already"):
        client(push, folder=newer, repo_id="ann/faces", tag="v1")
    assert repository.branches["main"] == main
    code, out = run_command(client, "push", folder, "ann/faces", "--tag", "v1")
    assert code == 0 and "already up to date" in out
    with pytest.raises(ClientError, match="tags do not move"):
        client(push, folder=newer, repo_id="ann/faces", revision="v1")


def test_a_card_edited_here_is_sent_and_one_edited_on_the_hub_is_kept(hub, client, folder):
    card = folder / "README.md"
    for line in ("By hand.", "By hand, again."):
        card.write_text(card.read_text() + f"\n{line}\n")
        client(push, folder=folder, repo_id="ann/faces")
        sent = hub.files("ann/faces")["README.md"].decode()
        assert line in sent and 'from_pretrained("tiny")' in sent

    client(upload_bytes, repo_id="ann/faces", files={"README.md": sent + "\nEdited on the page.\n"})
    (folder / "training.json").write_text(json.dumps({"name": "tiny", "data": "Others."}))
    code, out = run_command(client, "push", folder, "ann/faces")
    files = hub.files("ann/faces")
    assert code == 0 and "was edited there and is kept; --overwrite-card" in out
    assert "Edited on the page." in files["README.md"].decode() and b"Others." in files["training.json"]
    code, out = run_command(client, "push", folder, "ann/faces", "--overwrite-card")
    assert code == 0 and "Edited on the page." not in hub.files("ann/faces")["README.md"].decode()


def test_a_generated_card_follows_the_notes(hub, client, folder):
    client(push, folder=folder, repo_id="ann/faces")
    (folder / "training.json").write_text(json.dumps({"name": "tiny", "data": "Other photos."}))
    client(push, folder=folder, repo_id="ann/faces")
    assert "Other photos." in hub.files("ann/faces")["README.md"].decode()


def test_who_sees_a_new_repository(hub, client, folder, tmp_path):
    words = write_checkpoint(WORDS, tmp_path / "words")
    assert not client(push, folder=words, repo_id="ann/words")["private"]
    code, out = run_command(client, "push", folder, "ann/faces")
    assert code == 0 and out.strip().endswith("ann/faces (private)")
    assert run_command(client, "push", folder, "ann/open", "--public")[0] == 0
    assert not hub.repositories["models", "ann/open"].private
    # who made a repository public has decided
    assert client(push, folder=folder, repo_id="ann/open", tag="v2")["private"] is False
    images = write_checkpoint("hfembed_conv_autoencoder", tmp_path / "images")
    assert not client(push, folder=images, repo_id="ann/images")["private"]
    (images / "training.json").write_text(json.dumps({"name": "tiny", "data": "Drawn.", "people": 40}))
    assert client(push, folder=images, repo_id="ann/portraits")["private"]


def test_what_an_older_version_leaked_is_removed_and_said(hub, client, folder):
    leaks = {"corpus/1f/ids.npy": "secret", "corpus/1f/words.txt": "secret", "cache.npz": "secret"}
    client(push, folder=folder, repo_id="ann/faces")
    client(upload_bytes, repo_id="ann/faces", files={**leaks, "notes/mine.txt": "mine", "demo/app.py": "mine"})
    code, out = run_command(client, "push", folder, "ann/faces")
    assert code == 0 and "removed 3 files" in out and "cache.npz" in out and "history" in out
    files = hub.files("ann/faces")
    assert not leaks.keys() & files.keys() and {"notes/mine.txt", "demo/app.py"} <= files.keys()


def test_a_card_with_bad_yaml_is_refused_before_anything_is_sent(hub, client, folder):
    (folder / "README.md").write_text("---\nlicense: my-own\n---\n# mine\n")
    with pytest.raises(ClientError, match="license"):
        client(push, folder=folder, repo_id="ann/faces")
    assert hub.titles("ann/faces") == [ATTRIBUTES]


@pytest.mark.parametrize(
    ("break_it", "line"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "lacks model.safetensors"),
        (lambda f: os.truncate(f / "model.safetensors", 4000), "model.safetensors is truncated"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "lacks preprocessor_config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda f: edit_config(f, embeding_size=12), "unknown key 'embeding_size'"),
        (lambda f: edit_config(f, embedding_size=24), "and config.json says"),
        (lambda f: (f / "preprocessor_config.json").write_text("[1]"), "settings or the words are damaged"),
        (lambda f: edit_config(f, architectures=0.5), "no possible model: .*architectures"),
        (lambda f: edit_config(f, architectures=[["FaceEmbedderModel"]]), "no possible model: .*architectures"),
        (lambda f: edit_config(f, trunk_arguments={"depths": [1], "widths": [8, 16]}), "no possible model: iresnet"),
        (lambda f: edit_config(f, model_type="resnet"), "unsupported model_type 'resnet'"),
        (lambda f: torch.save({}, f / "optimizer.pt"), "pickle file optimizer.pt"),
        (lambda f: (f / "training.json").write_text("[]"), "training.json is not a JSON object"),
    ],
)  # fmt: skip
def test_what_is_no_whole_checkpoint_is_not_shared(hub, folder, break_it, line):
    from hfembed.checkpoint.push import push_folder
    from hfembed.errors import InputError

    break_it(folder)
    with pytest.raises(InputError, match=line) as error:
        push_folder(folder, "ann/faces", token="token-ann")
    assert "\n" not in str(error.value)
    assert not hub.requests


def edit_config(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


def test_refusals_are_one_line(hub, client, folder):
    hub.create("bob/model")
    hub.create("ann/public")
    refusals = [
        ({"token": ""}, ["ann/x"], "needs a token"),
        ({"token": "token-nobodys"}, ["ann/x"], "does not know your token"),
        ({"token": "token-reader"}, ["ann/public"], "may not write there"),
        ({}, ["bob/model"], "may not write there"),
        ({}, ["bob/new"], "may not write there"),
        ({}, ["ann/a b"], "is not a valid repo id"),
        ({}, ["ann/public", "--private"], "exists and is public"),
        ({"offline": True}, ["ann/x"], "HF_HUB_OFFLINE is set"),
    ]
    for options, arguments, line in refusals:
        code, out = run_command(client, "push", folder, *arguments, **options)
        errors = [text for text in out.splitlines() if text.startswith("error: ")]
        assert code == 1 and len(errors) == 1 and line in errors[0], out
        assert "Traceback" not in out
    assert hub.files("ann/public") == {}


def test_passing_faults_are_sat_out(hub, client, folder):
    hub.faults = [
        Fault("preupload", "status", status=500),
        Fault("PUT /_lfs/", "cut"),
        Fault("/commit/main", "status", status=429, retry_after=1),
        Fault("/commit/main", "slow", seconds=0.5),
    ]
    assert client(push, folder=folder, repo_id="ann/faces")["changed"]
    assert all(fault.times == 0 for fault in hub.faults)
    assert hub.titles("ann/faces") == ["Upload model", ATTRIBUTES]
    assert hub.files("ann/faces")["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_a_commit_whose_answer_is_lost_is_not_made_twice(hub, client, folder):
    hub.faults = [Fault("/commit/main", "short")]
    hub.create("ann/faces")
    original = hub.server.RequestHandlerClass.send

    def lose_first(handler, answer, fault):
        if "/commit/main" in handler.path and fault == "short":
            handler.hang_up()
        else:
            original(handler, answer, fault)

    hub.server.RequestHandlerClass.send = lose_first
    try:
        client(push, folder=folder, repo_id="ann/faces")
    finally:
        hub.server.RequestHandlerClass.send = original
    assert hub.titles("ann/faces") == ["Upload model", ATTRIBUTES]


def test_somebody_elses_commit_meanwhile_is_not_overwritten(hub, client, folder):
    repository = hub.create("ann/faces")

    def meanwhile():
        repository.commit("main", repository.find("main").files, "By another", "bob")

    hub.faults = [Fault("/commit/main", "call", call=meanwhile)]
    with pytest.raises(ClientError, match="was changed by somebody else"):
        client(push, folder=folder, repo_id="ann/faces")
    assert hub.titles("ann/faces") == ["By another", ATTRIBUTES]


def test_killed_at_any_request_main_is_the_old_model_or_the_new_one(hub, client, folder, tmp_path, seed):
    newer = write_checkpoint(FACES, tmp_path / "newer", seed + 1)
    client(push, folder=folder, repo_id="ann/faces")
    old = hub.files("ann/faces")
    before = {path.name: path.read_bytes() for path in newer.iterdir()}
    moment = 0
    while hub.files("ann/faces")["model.safetensors"] == old["model.safetensors"]:
        hub.faults = [Fault("", "call", times=moment), Fault("", "call", call=client.kill)]
        client.start(push, folder=newer, repo_id="ann/faces")
        with contextlib.suppress(ClientError):
            client.finish()
        files = hub.files("ann/faces")
        assert files == old or files | {"README.md": before["README.md"]} == before
        moment += 1
    assert moment > 6  # requests before the one that makes the commit
    assert {path.name: path.read_bytes() for path in newer.iterdir()} == before


def test_transformers_own_push_works_too(hub, client, folder):
    def push_as_users_of_transformers(folder):
        from hfembed import FaceEmbedderForClassification, FaceImageProcessor

        FaceEmbedderForClassification.from_pretrained(folder).push_to_hub("ann/faces", private=True)
        FaceImageProcessor.from_pretrained(folder).push_to_hub("ann/faces")

    client(push_as_users_of_transformers, folder=folder)
    files = hub.files("ann/faces")
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= files.keys()
    assert hub.repositories["models", "ann/faces"].private
    assert ModelCard(files["README.md"].decode()).data
