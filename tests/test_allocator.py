"""Memory that is kept: the system maps a step's pages once, not at every step."""

import platform
import subprocess
import sys

import pytest

_STEPS = """
import resource, sys
import torch
from hfembed.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.zeros(50 << 18).add(1)  # twice 50 MiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(way):
    done = subprocess.run([sys.executable, "-c", _STEPS, way], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's allocator")
def test_large_blocks_are_mapped_once():
    assert faults("keep") < 0.3 * faults("give back")
