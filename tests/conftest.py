"""Fixtures all tests share. Tests never reach the network."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import pytest

from tests.hub.hub_client import HubClient
from tests.hub.hub_server import Hub, User

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def research_data() -> Path:
    """The folder with the real research data (LFW, celeba299, foreign weights, text)."""
    folder = Path(os.environ.get("HFEMBED_RESEARCH_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"research data not found at {folder}")
    return folder


@pytest.fixture(scope="session")
def running_hub(tmp_path_factory):
    with Hub() as hub:
        hub.users = {
            "token-ann": User("ann"),
            "token-bob": User("bob", organizations=("lab",)),
            "token-reader": User("ann", may_write=False),
        }
        client = HubClient(hub.url, tmp_path_factory.mktemp("client"), "token-ann")
        yield hub, client
        client.close()


@pytest.fixture
def hub(running_hub):
    """The Hub, with no repositories and no faults."""
    hub, _ = running_hub
    with hub.lock:
        hub.repositories.clear()
        hub.faults.clear()
        hub.requests.clear()
    return hub


@pytest.fixture
def client(running_hub, hub):
    """Ann, with an empty cache; "token-bob" is another user, "token-reader" Ann's token that may only read."""
    _, client = running_hub
    client.forget()
    return client
