"""The memory of a zygote, arranged so that it is quick to fork."""

import contextlib
import ctypes
import resource
from typing import Any

_MADV_COLLAPSE = 25  # linux/mman.h, since Linux 6.1
_PAGE, _HUGE_PAGE = 4 << 10, 2 << 20  # of x86-64, and mostly of AArch64


def use_huge_pages() -> None:
    """Move the memory of this process to huge pages, as far as possible. A fork copies the entry of
    each page; a later change copies only a small part of a huge page."""
    if resource.getpagesize() != _PAGE:
        return
    library: Any = ctypes.CDLL(None)
    with contextlib.suppress(AttributeError):  # only the GNU library has it
        library.malloc_trim(0)  # otherwise the first use of free memory changes many pages
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        mappings = [line.split() for line in file]
    for addresses, rights, _, _, inode, *_ in mappings:
        start, end = (int(address, 16) for address in addresses.split("-"))
        start, end = -(-start // _HUGE_PAGE) * _HUGE_PAGE, end // _HUGE_PAGE * _HUGE_PAGE
        if rights == "rw-p" and inode == "0" and start < end:
            library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_COLLAPSE)
