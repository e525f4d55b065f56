"""Byte code of the packages of environments, compiled once for all that contain the same file.

It is stored by the hash of its source, and hard-linked into environments. Python loads it without
checking the source (PEP 552, "unchecked"): the time of a source depends on when it was unpacked,
and nothing in an environment changes once it is sealed.

The module is also a program, run by the environment's Python, so it imports nothing of `builder`.
"""

import contextlib
import hashlib
import os
import py_compile
import sys
from importlib.util import MAGIC_NUMBER, cache_from_source

_AT_A_TIME = 32


def provide(packages: str, store: str) -> None:
    """Provide byte code for all modules below `packages`, from `store` or compiled into it.

    Files that do not compile are skipped, as pip does."""
    store = os.path.join(store, f"{sys.implementation.cache_tag}-{MAGIC_NUMBER.hex()}")
    missing = [
        (source, kept)
        for source, kept in _sources(packages, store)
        if not _linked(kept, cache_from_source(source))
    ]
    if missing:
        from concurrent.futures import ProcessPoolExecutor

        with ProcessPoolExecutor() as pool:
            for _ in pool.map(_compile, missing, chunksize=_AT_A_TIME):
                pass


def prune(store: "str | os.PathLike[str]") -> None:
    """Remove what no environment uses any more."""
    for folder, _, names in os.walk(store):
        for name in names:
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                if os.lstat(path).st_nlink == 1:
                    os.unlink(path)


def _sources(packages: str, store: str) -> "list[tuple[str, str]]":
    """Return the modules below a folder, each with the path of its byte code in the store."""
    sources = []
    for folder, _, names in os.walk(packages):
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(".py") and os.path.isfile(path):
                with open(path, "rb") as file:
                    digest = hashlib.sha256(file.read()).hexdigest()
                sources.append((path, os.path.join(store, digest[:2], digest)))
    return sources


def _linked(path: str, name: str) -> bool:
    try:
        os.makedirs(os.path.dirname(name), exist_ok=True)
        os.link(path, name)
    except FileExistsError:
        return True
    except OSError:  # missing, too many links, or a file system without them
        return False
    return True


def _compile(missing: "tuple[str, str]") -> None:
    source, kept = missing
    try:
        compiled = py_compile.compile(
            source,
            doraise=True,
            quiet=2,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
    except (py_compile.PyCompileError, OSError):
        return
    if compiled:
        _linked(compiled, kept)


if __name__ == "__main__":
    provide(*sys.argv[1:])
