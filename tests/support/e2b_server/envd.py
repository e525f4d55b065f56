"""Serve the files of a sandbox as E2B's envd does: `/files` over HTTP, the rest as Connect calls in
JSON. Rules and messages follow its published sources."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json
import os
import posixpath
import shutil
import stat
import tempfile
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.support.e2b_server.state import ApiError

PORT = 49983
_HOMES = {"user": "/home/user", "root": "/root"}
_STATUS = {
    "invalid_argument": 400, "unauthenticated": 401, "not_found": 404, "already_exists": 409,
    "failed_precondition": 400, "internal": 500, "unimplemented": 501,
}  # fmt: skip
_CHUNK = 1 << 16


class ConnectError(Exception):
    """A Connect error, by its code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Machine:
    """The file system of one sandbox, in a folder of this machine."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="machine-", ignore_cleanup_errors=True)
        self.root = os.path.realpath(self._folder.name)
        for home in ("/home/user", "/root", "/tmp"):
            os.makedirs(self.root + home)
        self.home = f"{self.root}/home/user"
        self.disk_bytes: int | None = None
        # Returns a file of the image, which is elsewhere.
        self.file_of_image: Callable[[str], bytes | None] = lambda _path: None

    def close(self) -> None:
        self._folder.cleanup()

    def resolve(self, path: str, user: str) -> str:
        """Return an absolute path of the machine, as `ExpandAndResolve` does."""
        if path.startswith("~"):
            if path[1:2] not in ("", "/", "\\"):
                raise ValueError(
                    f"failed to expand path '{path}' for user '{user}': cannot expand"
                    " user-specific home dir"
                )
            path = posixpath.normpath(_HOMES[user] + "/" + path[1:])
        if posixpath.isabs(path):
            return path
        return posixpath.normpath(posixpath.join(_HOMES[user], path))

    def here(self, path: str) -> str:
        """Return where this computer keeps a path of the machine."""
        return self.root + path

    def there(self, path: str) -> str:
        return path.removeprefix(self.root)

    def make_folders(self, path: str) -> None:
        at = ""
        for part in path.strip("/").split("/"):
            at = f"{at}/{part}"
            if not os.path.exists(self.here(at)):
                os.mkdir(self.here(at), 0o755)
            elif not os.path.isdir(self.here(at)):
                raise ApiError(500, f"error ensuring directories: path is a file: {at}")

    def entry(self, path: str) -> dict[str, Any]:
        """Return an `EntryInfo` as protojson writes it, without zeros and empty values."""
        try:
            path.encode()
            status = os.lstat(self.here(path))
        except FileNotFoundError as error:
            raise ConnectError("not_found", f"file not found: lstat {path}: {error}") from error
        except NotADirectoryError as error:
            raise ConnectError("internal", f"error getting file info: lstat {path}: not a directory") from error  # fmt: skip
        except UnicodeEncodeError as error:
            raise ConnectError("internal", "string field contains invalid UTF-8") from error
        mode, target = status.st_mode, None
        if stat.S_ISLNK(mode):
            try:
                target = self.there(os.path.realpath(self.here(path), strict=True))
                mode = os.stat(self.here(path)).st_mode
            except OSError:
                target, mode = path, 0
        kinds = {stat.S_IFREG: "FILE", stat.S_IFDIR: "DIRECTORY"}
        kind = kinds.get(stat.S_IFMT(mode))
        modified = dt.datetime.fromtimestamp(status.st_mtime_ns // 10**9, dt.UTC)
        described: dict[str, Any] = {
            "name": posixpath.basename(path),
            "type": kind and f"FILE_TYPE_{kind}",
            "path": path,
            "size": str(status.st_size) if status.st_size else None,
            "mode": stat.S_IMODE(mode),
            "permissions": stat.filemode(status.st_mode),
            "owner": "user",
            "group": "user",
            "modifiedTime": f"{modified:%Y-%m-%dT%H:%M:%S}.{status.st_mtime_ns % 10**9:09}Z",
            "symlinkTarget": target,
        }
        return {key: value for key, value in described.items() if value or (key == "symlinkTarget" and target is not None)}  # fmt: skip

    # ---- filesystem.Filesystem

    def list_dir(self, fields: dict[str, Any], user: str) -> dict[str, Any]:
        path = self.resolve(fields.get("path", ""), user)
        place = os.path.realpath(self.here(path))
        if not os.path.exists(place):
            raise ConnectError("not_found", f"path not found: lstat {path}: no such file or directory")  # fmt: skip
        if not os.path.isdir(place):
            raise ConnectError("invalid_argument", f"path is not a directory: {path}")
        depth = fields.get("depth") or 1
        return {"entries": [self.entry(inside) for inside in self._walk(path, place, depth)]}

    def _walk(self, path: str, place: str, depth: int) -> Iterator[str]:
        for name in sorted(os.listdir(place)):
            yield posixpath.join(path, name)
            inner = os.path.join(place, name)
            if depth > 1 and os.path.isdir(inner) and not os.path.islink(inner):
                yield from self._walk(posixpath.join(path, name), inner, depth - 1)

    def stat(self, fields: dict[str, Any], user: str) -> dict[str, Any]:
        return {"entry": self.entry(self.resolve(fields.get("path", ""), user))}

    def make_dir(self, fields: dict[str, Any], user: str) -> dict[str, Any]:
        path = self.resolve(fields.get("path", ""), user)
        if os.path.isdir(self.here(path)):
            raise ConnectError("already_exists", f"directory already exists: {path}")
        if os.path.exists(self.here(path)):
            message = f"path already exists but it is not a directory: {path}"
            raise ConnectError("invalid_argument", message)
        self._folders(path)
        return {"entry": self.entry(path)}

    def _folders(self, path: str) -> None:
        try:
            self.make_folders(path)
        except ApiError as error:
            raise ConnectError("internal", error.message) from error

    def move(self, fields: dict[str, Any], user: str) -> dict[str, Any]:
        source, target = (self.resolve(fields.get(key, ""), user) for key in ("source", "destination"))  # fmt: skip
        self._folders(posixpath.dirname(target))
        try:
            os.rename(self.here(source), self.here(target))
        except FileNotFoundError as error:
            raise ConnectError("not_found", f"source file not found: rename {source} {target}: no such file or directory") from error  # fmt: skip
        except OSError as error:
            message = f"error renaming: rename {source} {target}: file exists"
            raise ConnectError("internal", message) from error
        return {"entry": self.entry(target)}

    def remove(self, fields: dict[str, Any], user: str) -> dict[str, Any]:
        path = self.here(self.resolve(fields.get("path", ""), user))
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(path)
        return {}

    # ---- /files

    async def upload(self, path: str, body: AsyncIterator[bytes]) -> None:
        """Write a file in place, as `processFile` does, so that a failure leaves a part of it."""
        self.make_folders(posixpath.dirname(path))
        if os.path.isdir(self.here(path)):
            raise ApiError(400, f"path is a directory: {path}")
        size = 0
        with open(self.here(path), "wb") as file:  # noqa: ASYNC230 - a test can wait
            async for chunk in body:
                size += len(chunk)
                if self.disk_bytes is not None and size > self.disk_bytes:
                    raise ApiError(507, "not enough disk space available")
                file.write(chunk)

    def download(self, path: str, encodings: str) -> Response:
        place = self.here(path)
        if not os.path.exists(place) and (content := self.file_of_image(path)) is not None:
            self.make_folders(posixpath.dirname(path))
            Path(place).write_bytes(content)
        if not os.path.exists(place):
            raise ApiError(404, f"path '{path}' does not exist")
        if os.path.isdir(place):
            raise ApiError(400, f"path '{path}' is a directory")
        if not os.path.isfile(place):
            raise AssertionError(f"envd would hang, opening {path}")
        headers = {"Vary": "Accept-Encoding", "Content-Disposition": "inline"}
        if "gzip" in encodings:
            return StreamingResponse(
                _zipped(place),
                media_type="application/octet-stream",
                headers=headers | {"Content-Encoding": "gzip"},
            )
        size = os.stat(place).st_size
        return StreamingResponse(
            _served(place, size),
            media_type="application/octet-stream",
            headers=headers | {"Content-Length": str(size)},
        )


def _zipped(place: str) -> Iterator[bytes]:
    packer = zlib.compressobj(1, wbits=31)
    with open(place, "rb") as file:
        while chunk := file.read(_CHUNK):
            yield packer.compress(chunk)
    yield packer.flush()


def _served(place: str, size: int) -> Iterator[bytes]:
    with open(place, "rb") as file:
        while size and (chunk := file.read(min(size, _CHUNK))):
            size -= len(chunk)
            yield chunk


_METHODS: dict[str, Callable[[Machine, dict[str, Any], str], dict[str, Any]]] = {
    "ListDir": Machine.list_dir,
    "Stat": Machine.stat,
    "MakeDir": Machine.make_dir,
    "Move": Machine.move,
    "Remove": Machine.remove,
}


async def _part(request: Request) -> AsyncIterator[bytes]:
    """Return the only part of a form, named `file`."""
    boundary = request.headers["content-type"].partition("boundary=")[2].encode()
    body = await request.body()
    head, _, rest = body.partition(b"\r\n\r\n")
    if b'name="file"' not in head or not head.startswith(b"--" + boundary):
        raise ApiError(400, "error reading form")
    content, _, end = rest.rpartition(b"\r\n--" + boundary)
    if end != b"--\r\n":
        raise ApiError(500, "error reading form: unexpected EOF")
    yield content


async def _post(machine: Machine, request: Request, version: str) -> Response:
    user = _user(request.query_params.get("username"))
    if "path" not in request.query_params:
        raise ApiError(400, "path query parameter is required for raw body upload")
    path = _resolved(machine, request.query_params["path"], user)
    kind = request.headers.get("content-type", "")
    takes_streams = tuple(map(int, version.split("."))) >= (0, 5, 7)
    if kind.startswith("application/octet-stream") and takes_streams:
        await machine.upload(path, request.stream())
    elif kind.startswith("multipart/"):
        await machine.upload(path, _part(request))
    else:
        raise ApiError(400, f"unsupported content type: {kind}")
    return JSONResponse([{"name": posixpath.basename(path), "type": "file", "path": path}])


def _user(name: str | None) -> str:
    if name is not None and name not in _HOMES:
        raise ApiError(401, f"error looking up user '{name}': user: unknown user {name}")
    return name or "user"


def _resolved(machine: Machine, path: str, user: str) -> str:
    try:
        return machine.resolve(path, user)
    except ValueError as error:
        raise ApiError(400, f"error resolving path: {error}") from error


def _called(machine: Machine, request: Request, body: bytes) -> Response:
    method = _METHODS.get(request.path_params["method"])
    try:
        if method is None:
            raise ConnectError("unimplemented", request.path_params["method"])
        if request.headers.get("content-type") != "application/json":
            raise ConnectError("internal", "not JSON")
        basic = request.headers.get("authorization", "").removeprefix("Basic ")
        name = base64.b64decode(basic).decode().partition(":")[0] or "user"
        if name not in _HOMES:
            raise ConnectError("unauthenticated", f"invalid username: '{name}'")
        try:
            return JSONResponse(method(machine, json.loads(body), name))
        except ValueError as error:
            raise ConnectError("invalid_argument", str(error)) from error
    except ConnectError as error:
        content = {"code": error.code, "message": str(error)}
        return JSONResponse(content, status_code=_STATUS[error.code])


def routes(
    machine_of: Callable[[Request], Machine], version: Callable[[], str], problems: list[str]
) -> list[Route]:
    """Return the routes for the sandbox of a request; unexpected errors become problems."""

    async def endpoint(request: Request) -> Response:
        try:
            machine = machine_of(request)
            if request.url.path != "/files":
                return _called(machine, request, await request.body())
            if request.method == "POST":
                return await _post(machine, request, version())
            query = request.query_params
            path = _resolved(machine, query.get("path", ""), _user(query.get("username")))
            return machine.download(path, request.headers.get("accept-encoding", ""))
        except ApiError as error:
            content = {"code": error.code, "message": error.message}
            return JSONResponse(content, status_code=error.code)
        except ClientDisconnect:  # the part that arrived stays, as with envd
            return Response(status_code=500)
        except Exception as error:  # noqa: BLE001 - a test looks at what went wrong
            problems.append(f"{request.method} {request.url.path}: {error!r}")
            return JSONResponse({"code": 500, "message": repr(error)}, status_code=500)

    return [
        Route("/files", endpoint, methods=["GET", "POST"]),
        Route("/filesystem.Filesystem/{method}", endpoint, methods=["POST"]),
    ]
