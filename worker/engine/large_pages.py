"""Ask the system to keep memory that is read again and again on large pages.

Weights are read from end to end at every step: on small pages the processor looks up addresses all
the while. Only advice: where the system has no such thing, nothing changes.
"""

import ctypes
import sys

PAGE_BYTES = 2 << 20

_MADV_HUGEPAGE = 14
_MADV_COLLAPSE = 25  # moves what is there already; Linux 6.1 or newer


def advise(address: int, num_bytes: int) -> None:
    """Move memory onto large pages, as far as whole ones lie in it."""
    first = -(-address // PAGE_BYTES) * PAGE_BYTES
    end = (address + num_bytes) // PAGE_BYTES * PAGE_BYTES
    if sys.platform != "linux" or end <= first:
        return
    libc = ctypes.CDLL(None)
    for advice in (_MADV_HUGEPAGE, _MADV_COLLAPSE):
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), advice)
