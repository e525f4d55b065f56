"""Byte code of the packages of environments, compiled once for all that contain the same file.

It is stored by the hash of its source, and hard-linked into environments. Python loads it without
checking the source (PEP 552, "unchecked"): the time of a source depends on when it was unpacked,
and nothing in an environment changes once it is sealed.

The module is also a program, run by the environment's Python, so it imports nothing of `builder`.
"""

import contextlib
import fcntl
import hashlib
import os
import py_compile
import sys
from collections.abc import Iterator
from importlib.util import MAGIC_NUMBER, cache_from_source

_AT_A_TIME = 32


def provide(packages: str, store: str) -> None:
    """Provide byte code for the modules below `packages`, from `store` or compiled into it.

    Files that do not compile are skipped, as pip does, and so are the packages' own tests: they are
    half of what scikit-learn brings, and nothing imports them."""
    kept = os.path.join(store, f"{sys.implementation.cache_tag}-{MAGIC_NUMBER.hex()}")
    if missing := _missing(_sources(packages, kept)):
        from concurrent.futures import ProcessPoolExecutor

        with _alone(store):  # builds side by side often contain the same files
            missing = _missing(missing)
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
    for folder, folders, names in os.walk(packages):
        if folder != packages:  # a package of that name may be anything
            folders[:] = [name for name in folders if name != "tests"]
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(".py") and os.path.isfile(path):
                with open(path, "rb") as file:
                    digest = hashlib.sha256(file.read()).hexdigest()
                sources.append((path, os.path.join(store, digest[:2], digest)))
    return sources


def _missing(sources: "list[tuple[str, str]]") -> "list[tuple[str, str]]":
    """Link the byte code that the store has; return the modules that it does not have."""
    return [
        (source, kept) for source, kept in sources if not _linked(kept, cache_from_source(source))
    ]


@contextlib.contextmanager
def _alone(store: str) -> Iterator[None]:
    """Wait until no other process compiles into the store, and keep others waiting."""
    os.makedirs(store, exist_ok=True)
    with open(os.path.realpath(store) + ".lock", "w") as file:
        with contextlib.suppress(OSError):  # a file system without locks: it is compiled twice
            fcntl.lockf(file, fcntl.LOCK_EX)  # unlike that of `flock`, not held by forked processes
        yield


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
