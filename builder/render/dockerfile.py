"""Render a variant and its lock to a multi-stage Dockerfile and the files that it copies.

The result depends on nothing else: no time, no host, no tool version. The spec has validated the
values; the filters here quote each of them for the place where it is rendered.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import jinja2

from builder.errors import StorageError
from builder.errors.visible import one_line
from builder.lock import Lock
from builder.registry import Digest
from builder.render.template_toml import template_toml
from builder.spec import Stage, Variant
from builder.spec.variant import stage_name
from builder.system.files import cache_folder

RESEED_FILE = "reseed.py"


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedFile:
    """A file of the build context; `path` is relative to `generated/<name>/`."""

    path: str
    mode: int
    content: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """All files of one variant, and the digest of exactly these files."""

    variant: Variant
    lock: Lock
    files: tuple[GeneratedFile, ...]
    digest: Digest

    @property
    def locked(self) -> Mapping[str, str]:
        """Return distribution → version of the lock."""
        return self.lock.packages

    @property
    def reseeds(self) -> bool:
        """Whether each copy of the warm interpreter is reseeded."""
        return any(file.path == RESEED_FILE for file in self.files)

    def content(self, path: str) -> bytes:
        """Return the content of a file. Raise `KeyError`."""
        return {file.path: file.content for file in self.files}[path]


def render(variant: Variant, lock: Lock) -> Rendered:
    """Render a variant with its lock."""
    environment = _environment()
    values = {
        "variant": variant,
        "image": lock.image.pinned,
        "locks": {stage.stem: stage for stage in lock.stages},
    }
    contents: dict[str, tuple[int, bytes]] = {}
    for path in ("Dockerfile", "warmup.py"):
        text = environment.get_template(f"{path}.j2").render(values)
        contents[path] = (0o644, text.encode())
    if variant.level == "memory":
        contents[RESEED_FILE] = (0o644, _reseeding())
        if variant.reseed:
            contents["warmup_reseed.py"] = (0o644, (variant.reseed.rstrip("\n") + "\n").encode())
    contents["requirements/uv.txt"] = (0o644, _installer())
    for stage, locked in zip(variant.stages, lock.stages, strict=True):
        if locked.text:
            header = (
                f"# The lock of {stage.source}, exact and hashed, for every platform.\n"
                "# Written by template-builder; `template-builder lock` resolves it anew.\n"
            )
            path = f"requirements/{stage.stem}.txt"
            contents[path] = (0o644, (header + locked.text).encode())
        for entry in stage.files:
            path = f"files/{stage.stem}{entry.target}"
            contents[path] = (0o644, entry.content)
    contents["template.toml"] = (0o644, template_toml(variant, lock).encode())
    files = tuple(
        GeneratedFile(path=path, mode=mode, content=content)
        for path, (mode, content) in sorted(contents.items())
    )
    return Rendered(variant=variant, lock=lock, files=files, digest=_digest(variant, files))


def _digest(variant: Variant, files: Sequence[GeneratedFile]) -> Digest:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.path}\0{file.mode:o}\0{len(file.content)}\0".encode())
        digest.update(file.content)
    digest.update(f"cpu={variant.cpu}\0memory-mb={variant.memory_mb}\0".encode())
    return Digest(f"sha256:{digest.hexdigest()}")


@functools.cache
def _installer() -> bytes:
    return resources.files(__package__).joinpath("templates", "uv.txt").read_bytes()


@functools.cache
def _reseeding() -> bytes:
    """Return the module that reseeds forked kernels on `local`, and copies of sandboxes on E2B."""
    parts = ("targets", "local", "kernel_host", "reseed.py")
    return resources.files("builder").joinpath(*parts).read_bytes()


class _BytecodeCache(jinja2.FileSystemBytecodeCache):
    """Compiled templates in the user's cache, since compiling takes longer than rendering."""

    def dump_bytecode(self, bucket: jinja2.bccache.Bucket) -> None:
        with contextlib.suppress(OSError):  # another user's folder, or a full disk
            super().dump_bytecode(bucket)


def _bytecode_cache() -> jinja2.BytecodeCache | None:
    with contextlib.suppress(OSError, StorageError):
        folder = cache_folder() / "templates"
        folder.mkdir(parents=True, exist_ok=True)
        return _BytecodeCache(str(folder))
    return None


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("builder.render"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - no HTML here; every value passes a filter of its own
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        bytecode_cache=_bytecode_cache(),
    )
    environment.filters |= {
        "stage_name": stage_name,
        "env_pairs": _env_pairs,
        "shell": shlex.quote,
        "export_line": lambda pair: _export_line(*pair),
        "merged_env": _merged_env,
        "sudo_lines": _sudo_lines,
        "one_line": one_line,
        "exec_form": lambda words: json.dumps(words, ensure_ascii=False),
        "python": _python,
        "python_check": _python_check,
    }
    return environment


def _env_pairs(env: Mapping[str, str]) -> str:
    return " \\\n    ".join(f"{name}={_env_value(value)}" for name, value in env.items())


def _env_value(value: str) -> str:
    r"""Quote for ENV: BuildKit's lexer interprets `\\`, `"` and `$` in quotes."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'


def _python(value: str | Sequence[str] | None) -> str:
    # JSON's text and lists of text are valid Python.
    return "None" if value is None else json.dumps(value, ensure_ascii=False)


def _merged_env(stages: Sequence[Stage]) -> dict[str, str]:
    return {name: value for stage in stages for name, value in stage.env.items()}


def _export_line(name: str, value: str) -> str:
    # /etc/profile of a login shell has already set PATH.
    unset = "" if name == "PATH" else f'[ -n "${{{name}+set}}" ] || '
    return shlex.quote(f"{unset}export {name}={shlex.quote(value)}")


def _sudo_lines(env: Mapping[str, str]) -> str:
    lines = [f'Defaults env_keep += "{" ".join(env)}"']
    if "PATH" in env:
        lines.append("Defaults !secure_path")
    return " ".join(shlex.quote(line) for line in lines)


def _python_check(specifier: str) -> str:
    # pip includes a parser of version specifiers, and the next line needs pip anyway.
    expected = json.dumps(specifier)
    code = (
        "import sys; from pip._vendor.packaging.specifiers import SpecifierSet; "
        'found = ".".join(map(str, sys.version_info[:3])); '
        f"found in SpecifierSet({expected}) or "
        f'sys.exit("base.python: the image has Python " + found + ", expected " + {expected})'
    )
    return f"python3 -c {shlex.quote(code)}"
