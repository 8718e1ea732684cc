"""Threads and cores, also where the system has no call for them."""

import os
import subprocess
import sys

import pytest
import torch

from hfembed.threads import available_cores, choose_threads, map_in_threads, split_batches
from tests.faces.conftest import analyzer, draw  # noqa: F401

# what Linux has and macOS or Windows lacks
ELSEWHERE = """
import os, signal, sys
import datasets, torch, timm  # which ask the system what it is
from transformers import AutoImageProcessor, AutoModel, pipeline
for name in ("sched_getaffinity", "fork", "getuid", "geteuid", "getloadavg", "posix_fadvise"):
    if hasattr(os, name): delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGALRM"):
    if hasattr(signal, name): delattr(signal, name)
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
import hfembed.threads
from hfembed.atomic import atomic_write
assert hfembed.threads.available_cores() >= 1
with atomic_write(sys.argv[1]) as file: file.write_text("x")
"""


def test_cores_where_the_system_does_not_say_which(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS and Windows
    for known, cores in ((3, 3), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda known=known: known)
        assert available_cores() == choose_threads("auto") == cores


def test_photos_are_analyzed_there_too(monkeypatch, analyzer):  # noqa: F811
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert [len(photo.faces) for photo in analyzer([draw((50, 30), person=1)] * 3)] == [1, 1, 1]


@pytest.mark.slow
def test_nothing_of_linux_alone_is_imported(tmp_path):
    code = ELSEWHERE + "from hfembed import FaceAnalyzer, EmbeddingIndex, Word2VecModel, ConvAutoencoderModel"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_auto_is_one_thread_per_core_and_each_has_a_batch(monkeypatch):
    monkeypatch.setattr("hfembed.threads.available_cores", lambda: 4)
    assert choose_threads("auto", torch.device("cpu")) == 4 and choose_threads("auto", torch.device("cuda")) == 1
    assert choose_threads(2) == 2
    assert split_batches(2, 32, 4) == [slice(0, 1), slice(1, 2)]
    assert split_batches(100, 32, 2) == [slice(0, 32), slice(32, 64), slice(64, 96), slice(96, 128)]
    assert split_batches(0, 32, 2) == []


def test_torch_has_one_thread_per_worker_and_its_own_number_afterwards():
    before = torch.get_num_threads()
    assert list(map_in_threads(lambda item: (item, torch.get_num_threads()), [1, 2, 3], 2)) == [(1, 1), (2, 1), (3, 1)]
    assert torch.get_num_threads() == before
