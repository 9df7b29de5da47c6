"""The allocator, by the page faults that the kernel counts."""

import subprocess
import sys

import pytest

from jaxtickets import allocator

SCRIPT = """
import ctypes, resource, sys
from jaxtickets import allocator
if sys.argv[1] == "kept" and not allocator.keep_freed_memory():
    sys.exit(3)
libc, size = ctypes.CDLL(None), 128 << 20
libc.malloc.restype = ctypes.c_void_p
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size)))
    ctypes.memset(block, 1, size)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_memory_that_is_freed_and_allocated_again_costs_no_page_faults():
    faults = {}
    for way in ("default", "kept"):
        done = subprocess.run([sys.executable, "-c", SCRIPT, way], capture_output=True, text=True)
        if done.returncode == 3:
            pytest.skip("no glibc")
        faults[way] = int(done.stdout)
    assert faults["kept"] < 100 < faults["default"]


def test_where_the_c_library_has_no_such_parameters_nothing_happens(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not allocator.keep_freed_memory()
