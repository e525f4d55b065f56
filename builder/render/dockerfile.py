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
from builder.lock.npm import package_json
from builder.registry import Digest, Ref
from builder.render.fetched import Fetched, fetched_of
from builder.render.loading import loading_check
from builder.render.template_toml import template_toml
from builder.spec import Check, Parent, Stage, Variant
from builder.spec.references import bind
from builder.spec.variant import Repository, Run, stage_name
from builder.system.files import cache_folder
from builder.system.variables import as_reference, written

RESEED_FILE = "reseed.py"


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedFile:
    """A file of the build context; `path` is relative to `generated/<name>/`."""

    path: str
    mode: int
    content: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """All files of one variant, and the digest of exactly these files.

    `fetched` is content beside them; the files name its hashes.
    """

    variant: Variant
    lock: Lock
    files: tuple[GeneratedFile, ...]
    fetched: tuple[Fetched, ...] = ()
    digest: Digest

    @property
    def locked(self) -> Mapping[str, str]:
        """Return distribution → version of the lock, and of the build that it is on."""
        parent = self.variant.parent
        return {**(parent.packages if parent else {}), **self.lock.packages}

    @property
    def docker_base(self) -> str:
        """Return the image that the first stage is on: that of a pre-check, if it is a template."""
        return _docker_base(self.variant, self.lock)

    @property
    def runs_code(self) -> bool:
        """Whether its service is E2B's code service."""
        return self.variant.runs_code

    @property
    def loading_checks(self) -> tuple[Check, ...]:
        """Return the derived checks of models and datasets."""
        contents = (each for each in self.fetched if each.kind != "download")
        return tuple(loading_check(each, runs_code=self.runs_code) for each in contents)

    @property
    def reseeds(self) -> bool:
        """Whether each copy of the warm interpreter is reseeded."""
        return any(file.path == RESEED_FILE for file in self.files)

    def content(self, path: str) -> bytes:
        """Return the content of a file. Raise `KeyError`."""
        return {file.path: file.content for file in self.files}[path]

    @property
    def context_paths(self) -> list[str]:
        """Return the paths of the build context; archives that are extracted have a made-up one."""
        copied = (path for each in self.fetched if each.copied for path in each.context_paths)
        return [*(file.path for file in self.files), *copied]


def image_name(name: str, level: str) -> str:
    """Return the name of the image that a pre-check builds of a template."""
    return f"template-builder/{name.strip('-_')}:{level}"


def _docker_base(variant: Variant, lock: Lock) -> str:
    parent = variant.parent
    if parent is None:
        return lock.image.pinned
    if parent.name is None:
        return image_name("template-on-e2b", Ref(parent.ref).template_id)
    return image_name(parent.name, parent.level)


def render(variant: Variant, lock: Lock) -> Rendered:
    """Render a variant with its lock."""
    variant = bind(variant, lock.env)
    environment, fetched = _environment(), fetched_of(variant, lock)
    values = {
        "variant": variant,
        "image": _docker_base(variant, lock),
        "locks": {stage.stem: stage for stage in lock.stages},
        "fetched": fetched,
    }
    contents: dict[str, tuple[int, bytes]] = {}
    for path in ("Dockerfile", "warmup.py"):
        text = environment.get_template(f"{path}.j2").render(values)
        contents[path] = (0o644, text.encode())
    if variant.level == "memory":
        contents[RESEED_FILE] = (0o644, _reseeding())
        if variant.reseed:
            contents["warmup_reseed.py"] = (0o644, (variant.reseed.rstrip("\n") + "\n").encode())
    for content in fetched:
        if not content.copied:
            contents["fetch.py"] = (0o644, _fetching())
            contents[content.order_path] = (0o644, content.order)
    contents["requirements/uv.txt"] = (0o644, _installer())
    for stage, locked in zip(variant.stages, lock.stages, strict=True):
        for path, kind, text in (
            (f"requirements/{stage.stem}.txt", "exact versions with hashes", locked.hashed),
            (f"requirements/commits/{stage.stem}.txt", "commits", locked.commits),
        ):
            if text:
                header = (
                    f"# The lock of {stage.source}: {kind}, for every platform.\n"
                    "# Generated by template-builder; to update it, run `template-builder lock`.\n"
                )
                contents[path] = (0o644, (header + text).encode())
        if locked.node:
            folder = f"node/{stage.stem}"
            contents[f"{folder}/package.json"] = (0o644, package_json(stage.node).encode())
            contents[f"{folder}/package-lock.json"] = (0o644, locked.node.encode())
        contents |= _copied(stage)
    contents["template.toml"] = (0o644, template_toml(variant, lock).encode())
    files = tuple(
        GeneratedFile(path=path, mode=mode, content=content)
        for path, (mode, content) in sorted(contents.items())
    )
    digest = _digest(variant, files)
    return Rendered(variant=variant, lock=lock, files=files, fetched=fetched, digest=digest)


def _copied(stage: Stage) -> dict[str, tuple[int, bytes]]:
    """Return what a stage copies from the variants folder: path → (mode, content)."""
    stem = stage.stem
    contents = {f"files/{stem}{entry.target}": (0o644, entry.content) for entry in stage.files}
    for wheel in stage.wheels:
        contents[wheel.target.removeprefix("/opt/template/")] = (0o644, wheel.content)
    for number, folder in enumerate(stage.folders):
        for entry in folder.files:
            name = entry.target.removeprefix(f"{folder.target}/")
            contents[f"folders/{stem}/{number}/{name}"] = (0o644, entry.content)
    for number, run in enumerate(stage.runs):
        for entry in run.inputs:
            path = f"run/{stem}/{number}/{entry.target}"
            contents[path] = (int(entry.mode, 8), entry.content)
    for number, repository in enumerate(stage.repositories):
        if repository.key is not None:
            path = f"repositories/{stem}/{number}.{repository.key_name}"
            contents[path] = (0o644, repository.key)
    return contents


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


@functools.cache
def _fetching() -> bytes:
    """Return the program that fetches what is too large to be copied."""
    return resources.files("builder").joinpath("system", "fetch.py").read_bytes()


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
        "modes": _modes,
        "run_words": _run_words,
        "source_lines": _source_lines,
        "key_fetch": _key_fetch,
        "exec_form": lambda words: json.dumps(words, ensure_ascii=False),
        "python": _python,
        "python_check": _python_check,
    }
    return environment


def _env_pairs(env: Mapping[str, str]) -> str:
    return " \\\n    ".join(f"{name}={_env_value(value)}" for name, value in env.items())


def _env_value(value: str) -> str:
    r"""Quote for ENV: BuildKit's lexer interprets `\\`, `"` and `$` in quotes."""

    def escaped(text: str) -> str:
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")

    return f'"{written(value, literal=escaped, reference=as_reference)}"'


def _python(value: str | Sequence[str] | None) -> str:
    # JSON's text and lists of text are valid Python.
    return "None" if value is None else json.dumps(value, ensure_ascii=False)


def _merged_env(stages: Sequence[Stage], parent: Parent | None) -> dict[str, str]:
    own = {name: value for stage in stages for name, value in stage.env.items()}
    return {**(parent.env if parent else {}), **own}


def _export_line(name: str, value: str) -> str:
    # /etc/profile of a login shell has already set PATH.
    unset = "" if name == "PATH" else f'[ -n "${{{name}+set}}" ] || '
    quoted = written(value, literal=shlex.quote, reference=_shell_reference)
    return shlex.quote(f"{unset}export {name}={quoted}")


def _sudo_lines(env: Mapping[str, str]) -> str:
    lines = [f'Defaults env_keep += "{" ".join(env)}"']
    if "PATH" in env:
        lines.append("Defaults !secure_path")
    return " ".join(shlex.quote(line) for line in lines)


def _modes(stage: Stage) -> str:
    """Return commands that set the modes of copied files and folders."""
    commands = []
    for folder in stage.folders:
        paths: dict[str, list[str]] = {}
        for path in folder.folders:
            paths.setdefault(folder.folder_mode, []).append(path)
        for entry in folder.files:
            paths.setdefault(entry.mode, []).append(entry.target)
        commands += [f"chmod {mode} {shlex.join(names)}" for mode, names in paths.items()]
    commands += [f"chmod {entry.mode} {shlex.quote(entry.target)}" for entry in stage.files]
    return " \\\n    && ".join(commands)


def _run_words(run: Run, place: str) -> list[str]:
    """Return the program and arguments that run a command or script, whose files are in `place`."""
    lines = [f"cd {shlex.quote(place)}"] if run.inputs else []
    if run.env:
        lines.append("export " + " ".join(_exported(*pair) for pair in run.env.items()))
    lines.append(f"exec ./{shlex.quote(str(run.script))}" if run.script else str(run.command))
    return ["/bin/sh", "-ec", "\n".join(lines)]


def _shell_reference(name: str) -> str:
    return f'"${name}"'


def _exported(name: str, value: str) -> str:
    return f"{name}={written(value, literal=shlex.quote, reference=_shell_reference)}"


def _source_lines(repository: Repository, key: str) -> str:
    """Return the quoted lines of a source in the format deb822."""
    lines = [
        "Types: deb",
        f"URIs: {repository.uri}",
        f"Suites: {' '.join(repository.suites)}",
        *([f"Components: {' '.join(repository.components)}"] if repository.components else []),
        f"Signed-By: {key}",
    ]
    return " ".join(map(shlex.quote, lines))


def _key_fetch(repository: Repository, key: str) -> str:
    """Return a command that fetches a key, checks its hash, and writes it to the path `key`."""
    code = (
        "import hashlib, sys, urllib.request; "
        "url, sha256, path = sys.argv[1:]; "
        "key = urllib.request.urlopen(url, timeout=60).read(); "
        "got = hashlib.sha256(key).hexdigest(); "
        'got == sha256 or sys.exit(url + " has SHA-256 " + got + ", expected " + sha256); '
        'open(path, "wb").write(key)'
    )
    words = ["python3", "-c", code, str(repository.key_url), str(repository.key_sha256), key]
    return shlex.join(words)


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
