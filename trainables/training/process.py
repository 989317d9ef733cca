"""The set-up of a training process: its threads, and its handling of freed memory."""

import ctypes
import sys

import torch

# Constants from malloc.h of the GNU C library.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST = 2**31 - 1
_LARGEST_KEPT = 32 * 2**20
"""In bytes; the library allows no larger value. The activations of a batch take 1 to 32 MB."""


def set_up(threads: int) -> None:
    """Set the number of threads, and keep freed memory for the next update instead of returning it to the kernel.

    Every update allocates and frees the same activations. By default their pages go back to the kernel, which then
    provides other pages and clears them. This costs seconds out of every ten, and most on a busy machine.

    Args:
        threads: CPU threads per trial, at least 1; the order of sums, and so the result's bits, depends on it.
    """
    torch.set_num_threads(threads)
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # musl does not have it
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        library.mallopt(_M_TRIM_THRESHOLD, _MOST)
