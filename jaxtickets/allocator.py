"""Settings of the C library's memory allocator that make train steps on the CPU faster."""

import ctypes
import sys

# The parameters of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Makes malloc keep freed memory for the next allocation; returns whether the C library has these settings.

    Call it before any thread is started. The process then keeps its peak of memory to its end. Without glibc nothing
    changes.

    A compiled step takes its temporaries, hundreds of megabytes, from malloc each time it runs. By default glibc gives
    blocks of that size back to the kernel, and the next step pays a page fault for each of their pages
    (benchmarks/allocator.py). There is one arena, because the others can't hold blocks above 64 MiB.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return all([mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, -1), mallopt(M_ARENA_MAX, 1)])
