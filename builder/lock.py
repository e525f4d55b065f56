"""A variant's chain to exact packages: every stage resolved by uv under its parent's lock.

"Latest" is decided here and nowhere else. The result is text with hashes and without hosts or
paths; writing it to disk is `builder.render`'s business.
"""

from __future__ import annotations

import functools
import re
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder import processes, uv_tool
from builder.base_image import BaseImage, resolve_digest
from builder.errors import LockConflictError, NetworkError, StaleLockError, TemplateError
from builder.events import Event, Reporter
from builder.lock_conflict import explain, missing_extra, says_not_found
from builder.regular_file import read_regular
from builder.spec import Stage, Variant

__all__ = ["Lock", "StageLock", "lock_latest", "parse_pins", "read_committed"]

_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)(?: ; ([^\\\n]+?))?(?: \\)?$", re.MULTILINE)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_BACKEND = re.compile(r"[a-z0-9.]+")
_LOCKED_TEXT = re.compile(
    r"(?:[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+(?: ; [ -~]+?)?"
    r"(?: \\\n {4}--hash=sha256:[0-9a-f]{64})+\n)*"
)
_JOBS = 8
_LARGEST_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class StageLock:
    """What one stage adds: `text` is a requirements file without header.

    `torch_backend` is the backend that the packages come from; None is the default index.
    """

    stem: str
    requirements: tuple[str, ...]
    text: str
    torch_wanted: str | None
    torch_backend: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """A variant's base image and the locks of its stages, root first."""

    image: BaseImage
    python: str
    stages: tuple[StageLock, ...]

    @property
    def packages(self) -> dict[str, str]:
        """Distribution → version; several, for several platforms, joined by " | "."""
        found: dict[str, set[str]] = {}
        for stage in self.stages:
            for name, version in parse_pins(stage.text):
                found.setdefault(name, set()).add(version)
        return {name: " | ".join(sorted(found[name])) for name in sorted(found)}

    @property
    def notes(self) -> tuple[str, ...]:
        """Where the lock is weaker than what the spec asked for."""
        notes = [self.image.note] if self.image.note else []
        fallen = dict.fromkeys(
            stage.torch_wanted
            for stage in self.stages
            if stage.torch_wanted and stage.torch_backend is None and stage.text
        )
        notes += [
            f'`torch-backend = "{wanted}"`: that index could not be reached; PyTorch is taken from'
            " the default index (on Linux the CUDA build, a download of some GB)"
            for wanted in fallen
        ]
        return tuple(notes)


@functools.lru_cache(maxsize=4096)
def parse_pins(text: str) -> tuple[tuple[str, str], ...]:
    """The (name, version) pairs of a locked requirements text, in its order."""
    return tuple((match[1], match[2]) for match in _PIN.finditer(text))


def lock_latest(
    variants: Sequence[Variant], *, folder: Path, report: Reporter
) -> dict[str, Lock | TemplateError]:
    """Resolve every variant anew, to the latest that its specs allow.

    Stages that variants share are resolved once, independent ones side by side. `folder` is the
    variants folder, for the lines that errors name. The result maps a variant's name to its lock,
    or to why there is none (`LockConflictError`, `NetworkError`); one failing variant does not
    stop the others.
    """
    done: dict[tuple[str, ...], StageLock | TemplateError] = {}
    with ThreadPoolExecutor(max_workers=_JOBS) as pool, processes.interruptible():
        images = {
            reference: pool.submit(resolve_digest, reference)
            for reference in {variant.image for variant in variants}
        }
        depth = 1
        while todo := {
            _key(v, depth): (v, v.stages[:depth]) for v in variants if len(v.stages) >= depth
        }:
            running = {
                key: pool.submit(_lock_stage, variant.python_floor, chain, done, key, folder)
                for key, (variant, chain) in todo.items()
            }
            done |= {key: future.result() for key, future in running.items()}
            depth += 1
        found = {reference: future.result() for reference, future in images.items()}
    locks: dict[str, Lock | TemplateError] = {}
    for variant in variants:
        stages = [done[_key(variant, n + 1)] for n in range(len(variant.stages))]
        failed = [stage for stage in stages if isinstance(stage, TemplateError)]
        locks[variant.name] = (
            failed[0]
            if failed
            else Lock(
                image=found[variant.image],
                python=variant.python,
                stages=tuple(stage for stage in stages if isinstance(stage, StageLock)),
            )
        )
    for note in dict.fromkeys(n for x in locks.values() if isinstance(x, Lock) for n in x.notes):
        report(Event(kind="warning", text=note))
    return locks


def read_committed(variants: Sequence[Variant], generated: Path) -> dict[str, Lock | TemplateError]:
    """The locks that are committed under `generated`, without the network.

    A variant whose committed lock is absent, or is not that of its spec, maps to a
    `StaleLockError` that says what differs.
    """
    locks: dict[str, Lock | TemplateError] = {}
    for variant in variants:
        try:
            locks[variant.name] = _committed(variant, generated / variant.name)
        except TemplateError as error:
            locks[variant.name] = error
    return locks


def _key(variant: Variant, depth: int) -> tuple[str, ...]:
    return (variant.python_floor, *(stage.stem for stage in variant.stages[:depth]))


def _lock_stage(
    floor: str,
    chain: tuple[Stage, ...],
    done: dict[tuple[str, ...], StageLock | TemplateError],
    key: tuple[str, ...],
    folder: Path,
) -> StageLock | TemplateError:
    stage = chain[-1]
    parents = []
    for length in range(2, len(key)):
        parent = done[key[:length]]
        if isinstance(parent, TemplateError):
            return parent
        parents.append(parent)
    backend = stage.torch_backend
    if any(p.torch_wanted == backend and p.torch_backend is None for p in parents if p.text):
        backend = None  # a stage above could not reach that index: one chain, one kind of PyTorch
    if not stage.requirements:
        text = ""
    else:
        try:
            text, backend = _compile_or_fall_back(floor, chain, parents, backend, folder)
        except uv_tool.UvError as error:
            pins = {n: (v, p.stem) for p in parents for n, v in parse_pins(p.text)}
            return explain(error.output, chain, pins, folder)
        except TemplateError as error:
            return error
    return StageLock(
        stem=stage.stem,
        requirements=stage.requirements,
        text=text,
        torch_wanted=stage.torch_backend,
        torch_backend=backend,
    )


def _compile_or_fall_back(
    floor: str,
    chain: Sequence[Stage],
    parents: Sequence[StageLock],
    backend: str | None,
    folder: Path,
) -> tuple[str, str | None]:
    """The stage's lock and the backend it comes from: the default index where `backend`'s index is
    out of reach, be it that it does not answer or that a filter answers in its place."""
    try:
        return _compile(floor, chain, parents, backend, folder), backend
    except (NetworkError, uv_tool.UvError) as error:
        if backend is None:
            raise
        if isinstance(error, uv_tool.UvError) and not says_not_found(error.output):
            raise
        if any(f"+{backend}" in parent.text for parent in parents):
            raise  # the chain has that backend's builds already: there is no way round its index
    return _compile(floor, chain, parents, None, folder), None


def _compile(
    floor: str,
    chain: Sequence[Stage],
    parents: Sequence[StageLock],
    backend: str | None,
    folder: Path,
) -> str:
    inherited = [entry for parent in parents for entry in _entries(parent.text)]
    # Files without a name: a process that is killed leaves none behind.
    with tempfile.TemporaryFile() as requirements, tempfile.TemporaryFile() as constraints:
        requirements.write("".join(f"{r}\n" for s in chain for r in s.requirements).encode())
        constraints.write("".join(f"{pin}\n" for pin, _ in inherited).encode())
        for file in (requirements, constraints):
            file.seek(0)
        arguments = ["pip", "compile", "--universal", "--python-version", floor]
        arguments += ["--generate-hashes", "--no-header", "--no-annotate", "--no-progress"]
        arguments += ["--constraints", f"/dev/fd/{constraints.fileno()}"]
        arguments += [f"/dev/fd/{requirements.fileno()}"]
        # A fallback follows where a backend's index is out of reach: do not try that one for long.
        retries = {"UV_HTTP_RETRIES": "1"} if backend else {}
        said: list[str] = []
        output = uv_tool.run(
            [*arguments, f"--torch-backend={backend}"] if backend else arguments,
            doing=f"resolving stage `{chain[-1].stem}`",
            on_line=said.append,
            environment=retries,
            # Not the user's project: its settings for uv are not the template's.
            folder=Path(tempfile.gettempdir()),
            keep_open=[constraints.fileno(), requirements.fileno()],
        )
    if problem := missing_extra("\n".join(said), chain, folder):
        raise problem
    known = {pin for pin, _ in inherited}
    added = []
    for pin, hashes in _entries(output):
        if not hashes:
            raise LockConflictError(
                f"`{pin}` of stage `{chain[-1].stem}` has no hashes in its index, and a lock"
                " without them protects nobody",
                hint="take the package from an index that gives hashes",
            )
        if pin not in known:
            added.append(" \\\n".join([pin, *(f"    --hash={h}" for h in sorted(hashes))]))
    return "".join(f"{entry}\n" for entry in added)


def _entries(text: str) -> Iterable[tuple[str, list[str]]]:
    """The pins of a requirements text, each with its marker, and its hashes."""
    for block in re.split(r"\n(?=\S)", text.strip()):
        if block:
            pin = block.partition("\\")[0].strip()
            yield pin, re.findall(r"--hash=(sha256:[0-9a-f]{64})", block)


def _committed(variant: Variant, folder: Path) -> Lock:
    relock = "run `template-builder lock`, or leave out --frozen"
    place = f"generated/{variant.name}"
    try:
        document = tomllib.loads(read_regular(folder / "template.toml", _LARGEST_BYTES).decode())
        locked = document["lock"]
        stages = tuple(
            StageLock(
                stem=entry["name"],
                requirements=tuple(entry["requirements"]),
                text=_body(folder / "requirements" / f"{entry['name']}.txt")
                if entry["requirements"]
                else "",
                torch_wanted=entry.get("torch-backend-wanted"),
                torch_backend=entry.get("torch-backend"),
            )
            for entry in locked["stages"]
        )
        image = BaseImage(
            reference=locked["image"], digest=locked.get("digest"), note=locked.get("note")
        )
        lock = Lock(image=image, python=locked["python"], stages=stages)
        _check_shape(lock)
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise StaleLockError(
            f"`{variant.name}` has no committed lock: {place}/{missing} is not there", hint=relock
        ) from error
    except OSError as error:
        raise StaleLockError(f"{error.filename} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StaleLockError(
            f"{place}/template.toml is not what this program writes: {error}", hint=relock
        ) from error
    changes = list(_changes(variant, lock))
    if changes:
        raise StaleLockError(
            f"the committed lock of `{variant.name}` is not that of its spec:\n"
            + "\n".join(f"  {change}" for change in changes),
            hint=relock,
        )
    return lock


def _check_shape(lock: Lock) -> None:
    """What was edited by hand or merged badly must not reach a Dockerfile. Raises `ValueError`."""
    image = lock.image
    if image.digest is not None and not _DIGEST.fullmatch(image.digest):
        raise ValueError(f"`lock.digest` is {image.digest!r}")
    if image.note is not None and not (isinstance(image.note, str) and image.note.isprintable()):
        raise ValueError("`lock.note` is not one line of text")
    known: set[str] = set()
    for stage in lock.stages:
        if stage.torch_backend is not None and not _BACKEND.fullmatch(stage.torch_backend):
            raise ValueError(f"`torch-backend` of stage {stage.stem!r} is {stage.torch_backend!r}")
        if not _LOCKED_TEXT.fullmatch(stage.text):
            raise ValueError(f"requirements/{stage.stem}.txt holds more than pins and hashes")
        known |= {name for name, _ in parse_pins(stage.text)}
        for requirement in map(Requirement, stage.requirements):
            if canonicalize_name(requirement.name) not in known:
                raise ValueError(f"requirements/{stage.stem}.txt lacks `{requirement.name}`")


def _body(path: Path) -> str:
    lines = read_regular(path, _LARGEST_BYTES).decode().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("#"))


def _changes(variant: Variant, lock: Lock) -> Iterable[str]:
    if variant.image != lock.image.reference:
        yield f"`base.image`: {lock.image.reference} → {variant.image}"
    if variant.python != lock.python:
        yield f"`base.python`: {lock.python} → {variant.python}"
    old, new = [s.stem for s in lock.stages], [s.stem for s in variant.stages]
    if old != new:
        yield f"stages: {' → '.join(old)} became {' → '.join(new)}"
        return
    for stage, locked in zip(variant.stages, lock.stages, strict=True):
        for requirement in locked.requirements:
            if requirement not in stage.requirements:
                yield f"{stage.source}: `{requirement}` is gone from `python.packages`"
        for requirement in stage.requirements:
            if requirement not in locked.requirements:
                yield f"{stage.source}: `{requirement}` is new in `python.packages`"
        if stage.torch_backend != locked.torch_wanted:
            was, now = locked.torch_wanted or "none", stage.torch_backend or "none"
            yield f"{stage.source}: `python.torch-backend`: {was} → {now}"
