"""Fixtures all tests share. Tests never reach the network."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def research_data() -> Path:
    """The folder with the real research data (LFW, celeba299, foreign weights, text)."""
    folder = Path(os.environ.get("HFEMBED_RESEARCH_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"research data not found at {folder}")
    return folder
