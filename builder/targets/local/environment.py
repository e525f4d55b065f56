"""Make environments by digest: beside the active one, which is then replaced in one step.

A folder that no link points to is being made, is not verified yet, or was replaced; `sweep` removes
those that are not being made or used.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path
from typing import Literal

from builder.errors import (
    BuildError,
    InterruptedRunError,
    NetworkError,
    StorageError,
    from_os_error,
)
from builder.lock.pins import parse_pins, parts
from builder.render import Rendered
from builder.spec import Variant
from builder.system import processes, uv
from builder.system.documents import parse_json
from builder.system.events import Event, Reporter
from builder.system.files import atomic_write, exclusive, remove_tree
from builder.system.logs import Log
from builder.targets.local import absolute, byte_code, interpreter
from builder.targets.local.confine.bubblewrap import hand_over
from builder.targets.local.fetched import link_content
from builder.targets.local.home import in_home
from builder.targets.local.inherited import Requirements, requirements_of, take_over
from builder.targets.local.leftovers import remove_unused
from builder.targets.local.place import (
    MADE,
    MANIFEST,
    byte_code_folder,
    folder_of,
    lock_of,
    packages_of,
    place_of,
    sandbox_variables,
)
from builder.targets.local.sealed import seal

_WARMUP_TIMEOUT_SECONDS = 1800
# What packages need to show charts and tables but do not depend on; E2B's code service has it.
_SHOWN_WITH = {"plotly": "nbformat", "pandas": "jinja2"}


def claimed(digest: str, *, waiting: Callable[[], None]) -> AbstractContextManager[None]:
    """Keep others from making or removing environments of `digest`, for the `with` block."""
    return exclusive(lock_of(digest), waiting=waiting, check=processes.check_not_stopped)


def make(rendered: Rendered, *, report: Reporter, log: Log) -> Path:
    """Make an environment of a rendered variant in a new folder, without activating it.

    Call it with the digest claimed. Raises `BuildError`, `NetworkError`, `StorageError`, and then
    leaves nothing behind.
    """
    place = place_of(rendered.digest)
    try:
        os.fsencode(place).decode()
    except UnicodeDecodeError as error:
        raise StorageError(
            f"environments cannot be kept in `{place.parent}`: its name is not UTF-8",
            hint="set TEMPLATE_BUILDER_CACHE_DIR to a folder whose name is",
        ) from error
    folder = place.with_name(f"{MADE}{secrets.token_hex(4)}-{place.name}")
    try:
        _make_in(folder, rendered, report, log)
    except BaseException as error:
        remove_tree(folder)
        if isinstance(error, OSError):
            raise from_os_error(error, "making the environment") from error
        raise
    return folder


def activate(digest: str, folder: Path) -> None:
    """Make the environment in `folder` the active one of `digest`, in one step. Remove the previous
    one, unless it is in use. Raises `StorageError`."""
    place, before = place_of(digest), folder_of(digest)
    link = place.with_name(f".making-{place.name}-{os.getpid()}")
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(folder.name)
        if before == place and place.is_dir():  # made by an earlier version
            before = place.with_name(f"{MADE}{secrets.token_hex(4)}-{place.name}")
            os.rename(place, before)
        os.replace(link, place)
    except OSError as error:
        raise from_os_error(error, "putting the environment in place") from error
    if before != place:
        with contextlib.suppress(OSError):  # the next sweep tries again
            remove_unused(before)


def _make_in(folder: Path, rendered: Rendered, report: Reporter, log: Log) -> None:
    variant, start = rendered.variant, time.perf_counter()

    def step(text: str) -> None:
        log.line(text)
        report(Event(kind="step", variant=variant.name, text=text))

    def detail(text: str) -> None:
        log.line(f"uv: {text}")
        report(Event(kind="detail", variant=variant.name, text=text.strip()))

    python = interpreter.choose(variant.python)
    if python is None:
        raise BuildError(f"no Python on this machine satisfies {variant.python}")
    step("making the environment")
    # Relocatable, so that the cache folder can be moved.
    _uv(["venv", "--relocatable", "--no-project", "--python", python, str(folder)], detail)
    for file in rendered.files:
        atomic_write(folder / "template" / file.path, file.content, mode=file.mode)
    if variant.parent:
        take_over(variant.parent, folder)
    _put_files(folder, variant)
    if rendered.fetched:
        step("linking what was fetched")
        link_content(rendered.fetched, folder, report=report)
    step("installing the locked packages")
    _install(folder, detail, log)
    step("compiling them")
    _compile(folder)
    cold: dict[str, float] = {}
    if variant.level != "none":
        step("warming up the disk")
        cold = _warm_disk(folder, variant.env, log)
    kernel, *_ = metadata.distributions(name="ipykernel", path=[str(packages_of(folder))])
    manifest = {
        "python": _python_of(folder),
        "ipykernel": kernel.version,
        "seconds": round(time.perf_counter() - start, 3),
        "size": seal(folder),
        "cold": cold,
    }
    atomic_write(folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())


def _python_of(folder: Path) -> str:
    """Return the version of an environment's Python, which uv has written down."""
    lines = (folder / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    values = dict(line.partition(" = ")[::2] for line in lines)
    return values["version_info"]


def _put_files(folder: Path, variant: Variant) -> None:
    """Make the home that sandboxes get a copy of, with the files of the spec at and below it, and
    keep those for elsewhere."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    elsewhere = []
    for stage in variant.stages:
        for entry in stage.all_files:
            mode = int(entry.mode, 8)
            if path := in_home(entry.target):
                atomic_write(home / path, entry.content, mode=mode)
            elif absolute.provided(entry.target):
                place = absolute.place_in(folder, entry.target)
                atomic_write(place, entry.content, mode=mode)
                hand_over(place)
                elsewhere.append(entry.target)
    absolute.add(folder, elsewhere)
    if path := in_home(variant.workdir):
        (home / path).mkdir(parents=True, exist_ok=True)
    absolute.set_workdir(folder, variant.workdir)


def _install(folder: Path, detail: Callable[[str], None], log: Log) -> None:
    """Install the locked packages, each stage from its own source, then a kernel and what it needs
    to show results, constrained by the lock."""
    locked = list(requirements_of(folder))
    target = ["--python", str(folder / "bin" / "python"), "--no-compile-bytecode"]

    def install(arguments: Sequence[str]) -> None:
        command = ["pip", "install", *target, "--no-deps", *arguments]
        try:
            # Exact: uv's cache holds what an index or a repository would return.
            _uv([*command, "--offline"], lambda text: log.line(f"uv, offline: {text}"))
        except (NetworkError, BuildError):
            log.line("some packages are not in uv's cache: asking the index")
            _uv(command, detail)

    with uv.private_folder() as private:
        paths: list[Path] = []
        for (_, backend), group in itertools.groupby(locked, key=lambda each: each.source):
            stages = list(group)
            hashed, commits = (_requirements(stages, private, part) for part in (0, 1))
            chosen = [f"--torch-backend={backend}"] if backend else []
            if hashed:
                install(
                    ["--require-hashes", *chosen, *(f"--requirement={path}" for path in hashed)]
                )
            if commits:
                install([f"--requirement={path}" for path in commits])
            paths += [*hashed, *commits]
        names = {name for each in locked for name, _ in parse_pins(each.text)}
        shows = [need for name, need in _SHOWN_WITH.items() if name in names]
        constraints = [f"--constraints={path}" for path in paths]
        kernel = ["pip", "install", *target, *constraints, "ipykernel", *shows]
        try:
            _uv(kernel, detail)
        except NetworkError:
            log.line("no network: trying with what uv has in its cache")
            _uv([*kernel, "--offline"], detail)


def _requirements(stages: Sequence[Requirements], private: Path, part: Literal[0, 1]) -> list[Path]:
    """Write the locks of the stages to files, with the wheels of their environment; `part` is that
    of `pins.parts`."""
    paths = []
    for stage in stages:
        if text := parts(stage.text)[part]:
            wheels = (stage.folder / "wheels").as_uri()
            path = private / f"{len(stage.folder.parts)}-{stage.stem}-{part}.txt"
            path.write_text(text.replace(" file:///opt/template/wheels", f" {wheels}"), "utf-8")
            paths.append(path)
    return paths


def _compile(folder: Path) -> None:
    """Compile the packages, as pip does: otherwise, every sandbox would compile the modules that
    the warm-up does not import."""
    script, packages = byte_code.__file__, str(packages_of(folder))
    code, output = _run(folder, ["-I", "-S", script, packages, str(byte_code_folder())], {})
    if code:
        raise BuildError(f"compiling the packages failed:\n{output.strip()}")


def _uv(arguments: list[str], detail: Callable[[str], None]) -> None:
    try:
        uv.run(arguments, doing=f"`uv {' '.join(arguments[:2])}`", on_line=detail)
    except uv.UvError as error:
        installing = arguments[0] == "pip"
        hint = "a locked package does not install on this machine: see the output of uv"
        raise BuildError(error.message, hint=hint if installing else None) from error


# The result goes to a file: the imports may write to the output, or end the process.
_WARM = """
from json import dumps
from runpy import run_path
from sys import argv
seconds = run_path(argv[1])["import_all"]()
with open(argv[2], "w", encoding="utf-8") as file:
    file.write(dumps(seconds))
"""


def _warm_disk(folder: Path, env: Mapping[str, str], log: Log) -> dict[str, float]:
    """Run the variant's warm-up, as a layer of its image does; return seconds by module."""
    variables = sandbox_variables(env, path=folder, home=folder / "home")
    script, result = folder / "template" / "warmup.py", folder / "warmup.json"
    code, output = _run(folder, ["-c", _WARM, str(script), str(result)], variables)
    log.line(output)
    try:
        seconds = dict(parse_json(result.read_text(encoding="utf-8")))
        result.unlink()
    except (OSError, ValueError) as error:
        last = output.strip().splitlines()[-3:]
        text = "\n".join(line for line in last if not line.startswith('  File "<frozen '))
        raise BuildError(
            "the warm-up imports fail in the new environment:\n"
            + (text if code else f"the interpreter ended before the last import\n{text}").strip(),
            hint="correct `warmup.imports`, or add the missing package",
        ) from error
    return seconds


def _run(folder: Path, arguments: Sequence[str], variables: Mapping[str, str]) -> tuple[int, str]:
    """Run the environment's Python; return its exit code and output."""
    with (
        tempfile.TemporaryFile() as output,
        processes.started(
            [str(folder / "bin" / "python"), *arguments],
            stdout=output,
            stderr=output,
            cwd=folder / "home",
            env=dict(variables),
        ) as process,
    ):
        try:
            code = process.wait(timeout=_WARMUP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise BuildError(
                "the Python of the new environment did not finish within"
                f" {_WARMUP_TIMEOUT_SECONDS} seconds"
            ) from error
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    if processes.stopped():
        raise InterruptedRunError("interrupted")
    return code, text
