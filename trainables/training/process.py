"""How a process that trains is set up: its threads, and what it does with memory that is freed."""

import ctypes
import sys

import torch

# malloc.h of the GNU C library.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST = 2**31 - 1
_LARGEST_KEPT = 32 * 2**20
"""Bytes: the library allows no more. The activations of a batch are of 1 to 32 MB."""


def set_up(threads: int) -> None:
    """Train with so many threads, and keep freed memory for the next update instead of giving it back.

    An update allocates and frees the same activations again and again. By default each one's pages go back to the
    kernel, which hands out others and clears them: seconds of every ten, and most on a busy machine.

    Args:
        threads: CPU threads of one trial, at least 1; the order of sums, and so the bits, depend on it.
    """
    torch.set_num_threads(threads)
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # musl has none
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        library.mallopt(_M_TRIM_THRESHOLD, _MOST)
