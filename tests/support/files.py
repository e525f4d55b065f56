"""List and search files, and measure copies of large ones."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ROOT


def files_of_the_project() -> list[Path]:
    """Return every file that git tracks or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def files_with(text: str, *folders: Path) -> list[str]:
    """Return every file below the folders that contains the text."""
    return [
        str(path.relative_to(folder))
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and text.encode() in path.read_bytes()
    ]


COPY = """
import asyncio, contextlib, pathlib, sys
from builder.runtime.files import Files
from builder.targets.local.files import LocalFiles

def peak():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])

home, folder = map(pathlib.Path, sys.argv[1:])
inner = LocalFiles(home)

@contextlib.asynccontextmanager
async def opened():
    yield inner

async def main():
    files = Files(opened)
    for name in ("small", "large"):
        await files.upload(folder / name)
        await files.download(name, folder / "back")
        print(peak())

asyncio.run(main())
"""


def grown(home: Path, folder: Path, *, run: Callable[..., str]) -> int:
    """Return the KiB by which a process grows when it copies 200 MB into a sandbox and back."""
    with open(folder / "large", "wb") as large:
        large.truncate(200_000_000)
        large.seek(150_000_000)
        large.write(b"mark")
    (folder / "small").write_bytes(b"x" * 5_000_000)
    before, after = map(int, run(COPY, str(home), str(folder)).split())
    return after - before
