"""Memory that a pass on a CPU has freed is kept for the next one.

The C library gives large blocks back to the system as soon as they are free, and every pass would ask for them again, page by
page: a reranker of three layers made 3,400 pairs/s on two threads, of which a fifth went into this, and 4,600 without.
"""

import ctypes
import functools
import platform

# Names and values are glibc's (malloc.h). Blocks up to the largest size it takes for this come from its heaps. The free end of a
# heap is given back above a size that models for CPUs do not reach; a thread's heap of 64 MiB that is free as a whole, if there
# is room for the padding elsewhere, which there then never is.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST_BLOCK, _HEAP, _KEPT = 32 << 20, 64 << 20, 1 << 30


@functools.cache
def keep_freed_memory() -> None:
    """For this process; nothing happens with C libraries other than glibc."""
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_TOP_PAD, _HEAP)
