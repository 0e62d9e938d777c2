"""While a model is trained, freed memory stays with the process; afterwards it is given back. From
when a model is loaded, what one layer frees is there for the next."""

import resource
import subprocess
import sys

import psutil
import pytest

from chatpipe import allocator
from chatpipe.allocator import kept_memory

BLOCK = 40 * 2**20  # more than glibc ever takes from its heap by itself
has_glibc = pytest.mark.skipif(
    allocator._glibc() is None, reason=f"the C library of {sys.platform} is not glibc"
)


def use_and_free(blocks):
    """Pages that the kernel had to provide for that many blocks."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [b"1" * BLOCK for _ in range(blocks)]
    del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident():
    return psutil.Process().memory_info().rss


@has_glibc
def test_what_is_freed_is_allocated_again_without_the_kernel():
    use_and_free(4)
    without = use_and_free(4)
    with kept_memory():
        use_and_free(4)
        again = use_and_free(4)
    assert again < without / 10


@has_glibc
def test_afterwards_it_is_given_back():
    before = resident()
    with kept_memory():
        use_and_free(4)
        kept = resident() - before
    left = resident() - before
    assert kept > 3 * BLOCK
    assert left < BLOCK / 2


LAYERS = """
import resource, sys
from chatpipe.allocator import expect_large_blocks
if sys.argv[1] == "expecting":
    expect_large_blocks()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    held = [b"1" * (5 * 2**20) for _ in range(4)]
    del held
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@has_glibc
def test_what_one_layer_frees_is_there_for_the_next():
    def pages(what):
        command = [sys.executable, "-c", LAYERS, what]
        return int(subprocess.run(command, check=True, capture_output=True).stdout)

    assert pages("expecting") < pages("as it is") / 3


@has_glibc
def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(allocator, "_glibc", lambda: None)
    before = resident()
    with kept_memory():
        use_and_free(4)
        assert resident() - before < BLOCK / 2
