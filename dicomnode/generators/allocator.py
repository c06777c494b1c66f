"""Keep the memory that a network's layers have freed for the layers after them.

A layer of a plane of 512 × 512 writes some ten megabytes, which the next but one no longer needs. The C library gives
that much back to the kernel at once, and the kernel clears every page of it again for the next layer: an eighth of the
time of ``thin``, a third of that of the paper's generator (``bench/generator.py``). While ``freed_memory_kept`` lasts,
freed memory stays with the process; after it all of it goes back, so that a node at rest holds no more than before.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# mallopt(3), <malloc.h> of glibc
TRIM_THRESHOLD: Final = -1
MMAP_THRESHOLD: Final = -3
KEPT_BYTES: Final = 1 << 30  # more than a step of the network has at once (``infer.WORKING_BYTES``)
# glibc takes no more: what is larger is mapped and cleared each time. Both are also where its own rule ends up in a
# process that has freed an array this large.
LARGEST_MMAP_BYTES: Final = 32 << 20
TRIM_BYTES: Final = 2 * LARGEST_MMAP_BYTES

_libc = ctypes.CDLL(None)
IS_GLIBC: Final = hasattr(_libc, "mallopt") and hasattr(_libc, "malloc_trim")


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Nothing but time changes by it. Where the C library is not glibc, not even that.

    It holds for the whole process: of two that overlap, the one that ends first ends it for both.
    """
    if not IS_GLIBC:
        yield
        return
    _libc.mallopt(MMAP_THRESHOLD, LARGEST_MMAP_BYTES)
    _libc.mallopt(TRIM_THRESHOLD, KEPT_BYTES)
    try:
        yield
    finally:
        _libc.mallopt(TRIM_THRESHOLD, TRIM_BYTES)
        _libc.malloc_trim(0)
