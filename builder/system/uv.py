"""Run uv, pass on its output line by line, and turn its failures into our errors."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, cast

from builder.errors import (
    FetchError,
    InterruptedRunError,
    NetworkError,
    StorageError,
    TemplateError,
)
from builder.system import processes, uv_settings
from builder.system.scratch import Scratch

# From uv's (reqwest's, the operating system's) own wording.
_NETWORK = re.compile(
    r"Failed to fetch|error sending request|client error \(Connect\)|dns error|"
    r"operation timed out|connection (?:reset|closed|refused)|Network is unreachable|"
    r"network (?:connectivity is|was) disabled",
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"An index(?: URL)? \((?P<url>[^)]*)\) (?:could not be queried due to a lack of valid"
    r" authentication credentials \((?P<code>401) Unauthorized\)|returned a 403 Forbidden error)"
)
# A file at an address of its own. Errors of an index begin otherwise.
_ADDRESS = re.compile(
    r"Failed to (?:download|fetch)[^`\n]* `\S+ @ [^`]*`(?:.*\n)*?.*HTTP status client error"
    r" \((?P<status>[^)]*)\) for url \((?P<url>[^)]*)\)"
)
_GIT = re.compile(r"`(?P<package>[^`]*)`\n *cause: Git operation failed")
_GIT_OFFLINE = re.compile(
    r"Could not resolve host|Failed to connect|timed out|network (?:connectivity is|was) disabled",
    re.IGNORECASE,
)
_NO_INDEX_PAGE = re.compile(
    r"(?:Missing `Content-Type` header|Unsupported `Content-Type` .*?) for `(?P<missing>[^`]*)`"
    r"|Received some unexpected (?:JSON|HTML) from `(?P<unexpected>[^`]*)`"
)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded", re.IGNORECASE)
_NOT_WRITABLE = re.compile(r"Permission denied|Read-only file system", re.IGNORECASE)


class UvError(TemplateError):
    """uv failed because of the request itself; `output` is its message."""

    def __init__(self, doing: str, output: str) -> None:
        super().__init__(f"{doing} failed:\n{output}")
        self.output = output


def binary() -> str:
    """Return the uv that this program was installed with."""
    import uv

    return uv.find_uv_bin()


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Create a private folder for files that uv reads, for the `with` block."""
    scratch = Scratch()
    try:
        yield scratch.path
    finally:
        scratch.remove()


def run(
    arguments: Sequence[str],
    *,
    doing: str,
    on_line: Callable[[str], None] | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> str:
    """Run `uv arguments…` and return its standard output.

    `on_line` gets each line of its standard error as it comes; `folder` is a private folder with
    files among the arguments. uv gets the user's settings as far as `builder.system.uv_settings`
    passes them on. Raises `FetchError`, `NetworkError`, `StorageError`, `InterruptedRunError`,
    `ProjectError` or `UvError`.
    """
    output: list[str] = []
    lines: list[str] = []
    with contextlib.ExitStack() as stack:
        folder = folder or stack.enter_context(private_folder())
        process = stack.enter_context(_started(arguments, environment or {}, folder))
        # A child with pipes has both.
        stdout, stderr = cast(IO[str], process.stdout), cast(IO[str], process.stderr)
        reader = threading.Thread(target=lambda: output.append(stdout.read()), daemon=True)
        reader.start()
        for line in stderr:
            # uv hides passwords, but not every user name, which may be a token.
            lines.append(_CREDENTIALS.sub("****@", line.rstrip()))
            if on_line:
                on_line(lines[-1])
        reader.join()
        code = process.wait()
    if code == 0:
        return output[0]
    if processes.stopped():
        raise InterruptedRunError("interrupted")
    raise _translated("\n".join(lines) or f"uv ended with code {code} and no message", doing)


def _started(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path
) -> AbstractContextManager[subprocess.Popen[str]]:
    settings = folder / "uv.toml"
    settings.write_text(uv_settings.configuration(os.environ), encoding="utf-8")
    return processes.started(
        [binary(), "--config-file", str(settings), *arguments],
        scratch=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        env={
            **uv_settings.variables(os.environ),
            "NO_COLOR": "1",
            "TMPDIR": str(folder),  # removed with everything that a killed uv leaves behind
            **environment,
        },
    )


def _translated(output: str, doing: str) -> TemplateError:
    # uv prints its progress before the error.
    message = output.strip().rpartition("\nerror: ")[2].removeprefix("error: ")
    if _DISK_FULL.search(message):
        return StorageError(
            f"the disk is full: {doing} needed more space\n{message}",
            hint="free some space and run the same command again; finished work is kept",
        )
    if error := uv_settings.refused(message, os.environ):
        return error
    if refused := _REFUSED.search(message):
        code, url = refused["code"] or "403", refused["url"]
        return NetworkError(
            f"the package index {url} refused access (HTTP {code}): {doing} failed\n{message}",
            hint="give uv the credentials of that index (~/.netrc, `uv auth login`, or"
            " UV_INDEX_<NAME>_USERNAME and UV_INDEX_<NAME>_PASSWORD), and check that they have read"
            " access",
        )
    if page := _NO_INDEX_PAGE.search(message):
        return NetworkError(
            f"{page['missing'] or page['unexpected']} is not a page of a package index: {doing}"
            f" failed\n{message}",
            hint="check the URL of the index that uv is configured for; a login page or a filter"
            " may have answered instead",
        )
    if address := _ADDRESS.search(message):
        return FetchError(
            f"{address['url']} cannot be fetched: the server answers {address['status']}:"
            f" {doing} failed\n{message}",
            hint="check the address in `python.packages`",
        )
    if git := _GIT.search(message):
        if _GIT_OFFLINE.search(message):
            return NetworkError(
                f"no network: git could not fetch `{git['package']}`\n{message}",
                hint="check the connection and the address, and run the same command again",
            )
        return FetchError(
            f"git could not fetch `{git['package']}`: {doing} failed\n{message}",
            hint="check the address and the commit, and that git is installed on this machine",
        )
    if _NETWORK.search(message):
        return NetworkError(
            f"no network: {doing} could not reach a package index\n{message}",
            hint="check the connection and run the same command again, or use the committed locks"
            " with --frozen",
        )
    if _NOT_WRITABLE.search(message):
        return StorageError(
            f"{doing} is not permitted to write\n{message}",
            hint="make the folder writable, or set UV_CACHE_DIR to one that is",
        )
    return UvError(doing, message)
