"""The tests' own Hub, asked by the libraries that ask the real one."""

import os

import pytest

from tests.hub.hub_client import ClientError
from tests.hub.hub_server import Fault, User, check_card


def test_branches_tags_history_and_the_rest_of_the_api(hub, client):
    def use_the_api():
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, HfFileSystem

        api = HfApi()
        assert api.whoami()["name"] == "ann"
        api.create_repo("ann/x", private=True)
        first = api.upload_file(path_or_fileobj=b"one", path_in_repo="a/b.txt", repo_id="ann/x").oid
        api.create_tag("ann/x", tag="v1")
        api.create_branch("ann/x", branch="side/way", revision="v1")
        operations = [CommitOperationAdd("c.txt", b"two"), CommitOperationDelete("a/", is_folder=True)]
        second = api.create_commit("ann/x", operations, commit_message="Second", revision="side/way").oid
        assert [commit.commit_id for commit in api.list_repo_commits("ann/x", revision="side/way")][:2] == [
            second,
            first,
        ]
        assert sorted(api.list_repo_files("ann/x", revision="side/way")) == [".gitattributes", "c.txt"]
        assert sorted(api.list_repo_files("ann/x")) == [".gitattributes", "a/b.txt"]
        names = [entry.path for entry in api.list_repo_tree("ann/x", "a", revision="v1")]
        assert names == ["a/b.txt"] and api.get_paths_info("ann/x", ["a/b.txt", "none"])[0].size == 3
        assert {branch.name for branch in api.list_repo_refs("ann/x").branches} == {"main", "side/way"}
        api.super_squash_history("ann/x", branch="side/way")
        assert len(api.list_repo_commits("ann/x", revision="side/way")) == 1
        api.delete_branch("ann/x", branch="side/way")
        api.delete_tag("ann/x", tag="v1")
        assert [model.id for model in api.list_models(author="ann")] == ["ann/x"]
        assert HfFileSystem().read_text("ann/x/a/b.txt") == "one"
        api.update_repo_settings("ann/x", private=False)
        api.move_repo("ann/x", "ann/y")
        assert api.repo_exists("ann/y") and not api.repo_exists("ann/x") and not api.model_info("ann/y").private
        api.delete_repo("ann/y")
        return [model.id for model in api.list_models()]

    assert client(use_the_api) == []


def test_a_range_of_a_large_file_is_that_part_of_it(hub, client):
    content = os.urandom(200_000)
    (client.folder / "large.bin").write_bytes(content)

    def read_parts(file):
        import httpx2
        from huggingface_hub import HfApi, hf_hub_url

        api = HfApi()
        api.create_repo("ann/x")
        api.upload_file(path_or_fileobj=file, path_in_repo="large.bin", repo_id="ann/x")
        url = hf_hub_url("ann/x", "large.bin")
        parts = [httpx2.get(url, headers={"Range": f"bytes={part}"}) for part in ("5-9", "199990-", "-4", "200000-")]
        return [[part.status_code, part.content.hex()] for part in parts]

    expected = [content[5:10], content[199_990:], content[-4:]]
    assert client(read_parts, file=client.folder / "large.bin") == [
        *([206, part.hex()] for part in expected),
        [416, ""],
    ]


@pytest.mark.parametrize("xet", [True, False], ids=["xet", "lfs"])
def test_what_the_xet_store_unpacks_is_what_was_sent(hub, client, xet):
    """Chunks that are stored as they are, squeezed, and squeezed by groups of four bytes."""
    import numpy as np

    generator = np.random.default_rng(int(xet))
    floats = generator.normal(size=60_000).astype(np.float32).tobytes()
    content = os.urandom(150_000) + bytes(90_000) + b"abcabcabcd" * 9_999 + floats
    (client.folder / "mixed.bin").write_bytes(content)

    def there_and_back(file):
        import hashlib

        from huggingface_hub import HfApi, hf_hub_download

        api = HfApi()
        api.create_repo("ann/x")
        api.upload_file(path_or_fileobj=file, path_in_repo="mixed.bin", repo_id="ann/x")
        with open(hf_hub_download("ann/x", "mixed.bin"), "rb") as fetched:
            return hashlib.sha256(fetched.read()).hexdigest()

    digest = client(there_and_back, file=client.folder / "mixed.bin", xet=xet)
    assert hub.files("ann/x")["mixed.bin"] == content
    assert digest == hub.repositories["models", "ann/x"].find("main").files["mixed.bin"].sha256


def test_who_may_see_and_write_what(hub, client):
    hub.create("bob/secret", private=True)
    hub.create("bob/gated").gated = True
    hub.create("lab/shared", private=True)
    hub.users["token-lab"] = User("eve", organizations=("lab",))

    def kinds(who):
        from huggingface_hub import HfApi

        api = HfApi(token=who)
        found = []
        for call in (
            lambda: api.model_info("bob/secret"),
            lambda: api.auth_check("bob/gated"),
            lambda: api.model_info("lab/shared"),
            lambda: api.create_repo("bob/new"),
            lambda: api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="lab/shared"),
            lambda: api.model_info("bob/gated", revision="none"),
            lambda: api.create_commit("bob/gated", [], commit_message="stale", parent_commit="0" * 40),
        ):
            try:
                call()
                found.append("ok")
            except Exception as error:
                found.append(f"{type(error).__name__} {error.response.status_code}")
        return found

    missing = "RepositoryNotFoundError 404"
    found = {name: client(kinds, who=name) for name in ("token-ann", "token-bob", "token-lab")}
    assert found["token-ann"][:4] == [missing, "GatedRepoError 403", missing, "HfHubHTTPError 403"]
    assert found["token-bob"][:2] == ["ok", "ok"] and found["token-bob"][3] == "ok"
    assert found["token-lab"][2] == "ok" and found["token-lab"][4] == "ok"
    assert {who[5] for who in found.values()} == {"RevisionNotFoundError 404"}


def test_the_hf_command(hub, client, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "README.md").write_text("---\nlicense: mit\n---\n# x\n")
    (tmp_path / "model" / "model.safetensors").write_bytes(os.urandom(70_000))

    def hf(commands):
        import sys

        from huggingface_hub.cli.hf import main

        for arguments in commands:
            sys.argv = ["hf", *arguments]
            try:
                main()
            except SystemExit as ended:
                if ended.code:
                    return [arguments, ended.code]
        return []

    commands = [
        ["auth", "whoami"],
        ["upload", "ann/x", str(tmp_path / "model"), "."],
        ["repos", "tag", "create", "ann/x", "v1"],
        ["download", "ann/x", "--revision", "v1", "--local-dir", str(tmp_path / "back")],
    ]
    assert client(hf, commands=commands) == [], client.output
    for name in ("README.md", "model.safetensors"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()
    assert hub.repositories["models", "ann/x"].tags == {"v1": hub.repositories["models", "ann/x"].branches["main"]}


def test_every_fault_is_felt(hub, client):
    hub.create("ann/x")

    def info():
        from huggingface_hub import HfApi

        return HfApi().model_info("ann/x").id

    for fault in (Fault("", "status", status=500), Fault("", "cut"), Fault("", "short")):
        hub.faults = [fault]
        with pytest.raises(ClientError):
            client(info)
        assert client(info) == "ann/x"


@pytest.mark.parametrize(
    ("block", "error"),
    [
        ("license: mit\ntags: [a, b]", None),
        ("license: my-own", "license"),
        ("license: other", "license_name"),
        ("pipeline_tag: telepathy", "pipeline_tag"),
        ("tags: [1]", "tags"),
        ("a: [", "invalid YAML"),
        (
            "model-index:\n- name: x\n  results:\n  - task: {type: t}\n    dataset: {name: n}\n    metrics: []",
            "dataset.type",
        ),
    ],
)
def test_cards_are_checked(block, error):
    errors = check_card(f"---\n{block}\n---\n# x\n", "model")
    assert (errors == []) if error is None else (error in " ".join(errors))
