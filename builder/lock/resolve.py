"""A variant's chain to exact packages: every stage resolved by uv under its parent's lock.

"Latest" is decided here and nowhere else. The result is text with hashes and without hosts or
paths; `builder.render` writes it to disk, and `builder.lock.committed` reads it back.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.errors import LockConflictError, NetworkError, TemplateError
from builder.lock.base_image import BaseImage, UnknownImageError, kept, resolve_digest
from builder.lock.conflict import absent_packages, explain, missing_extra, not_found, unknown_image
from builder.lock.pins import entries, is_lock_text, missing_from, parse_pins
from builder.spec import Stage, Variant
from builder.system import processes, uv
from builder.system.events import Event, Reporter

_JOBS = 8
_MOST_ABSENT = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class StageLock:
    """What one stage adds: `text` is a requirements file without header.

    `torch_backend` is the backend that the packages come from; None is the default index. Where
    that is a fallback, `fallback_bytes` is what it gives to download (see `download_size`).
    """

    stem: str
    requirements: tuple[str, ...]
    text: str
    torch_wanted: str | None
    torch_backend: str | None
    fallback_bytes: int | None = None

    @property
    def fell_back(self) -> bool:
        """Whether the packages come from the default index instead of the backend's."""
        return bool(self.torch_wanted and self.torch_backend is None and self.text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """A variant's base image and the locks of its stages, root first."""

    image: BaseImage
    python: str
    stages: tuple[StageLock, ...]

    @property
    def packages(self) -> dict[str, str]:
        """Distribution → version; several, for several platforms, joined by " | "."""
        versions: dict[str, set[str]] = {}
        for stage in self.stages:
            for name, version in parse_pins(stage.text):
                versions.setdefault(name, set()).add(version)
        return {name: " | ".join(sorted(versions[name])) for name in sorted(versions)}

    @property
    def fallbacks(self) -> tuple[tuple[str, str], ...]:
        """What took the place of a PyTorch backend whose index was out of reach, and its cost."""
        fallbacks = []
        fallen = [stage for stage in self.stages if stage.fell_back]
        for wanted in dict.fromkeys(stage.torch_wanted for stage in fallen):
            stages = [stage for stage in fallen if stage.torch_wanted == wanted]
            sizes = [stage.fallback_bytes for stage in stages]
            cost = "on Linux the CUDA build, a download of some GB"
            if None not in sizes:
                total = sum(size for size in sizes if size is not None) / 1e9
                cost = f"on Linux on x86-64 the CUDA build, a download of {total:.2f} GB"
            text = (
                f'`torch-backend = "{wanted}"`: that index could not be reached; PyTorch is taken'
                " from the default index"
            )
            fallbacks.append((text, cost))
        return tuple(fallbacks)

    @property
    def notes(self) -> tuple[str, ...]:
        """Where the lock is weaker than what the spec asked for."""
        notes = [self.image.note] if self.image.note else []
        notes += [f"{text} ({cost})" for text, cost in self.fallbacks]
        return tuple(notes)


def lock_latest(
    variants: Sequence[Variant],
    *,
    folder: Path,
    report: Reporter,
    has_image: Callable[[str], bool] = lambda _: False,
    bases_told: bool = False,
) -> dict[str, Lock | TemplateError]:
    """Resolve every variant anew, to the latest that its specs allow.

    Stages that variants share are resolved once, independent ones side by side. `folder` is the
    variants folder, for the lines that errors name; `has_image` says whether this machine has an
    image that its registry does not give. Which base images are not pinned is reported, unless the
    plan tells it (`bases_told`). The result maps a variant's name to its lock, or to why
    there is none (`LockConflictError`, `NetworkError`, `SpecError`); one failing variant does not
    stop the others.
    """
    with ThreadPoolExecutor(max_workers=_JOBS) as pool, processes.interruptible():
        looked_up = {
            reference: pool.submit(_image, reference, has_image)
            for reference in {variant.image for variant in variants}
        }
        done = _lock_stages(variants, pool, folder)
        images = {reference: future.result() for reference, future in looked_up.items()}
    locks: dict[str, Lock | TemplateError] = {}
    for variant in variants:
        stages = [done[_key(variant, n + 1)] for n in range(len(variant.stages))]
        failed = [stage for stage in stages if isinstance(stage, TemplateError)]
        image = images[variant.image]
        if isinstance(image, UnknownImageError):
            locks[variant.name] = unknown_image(variant, image.why, folder)
        elif failed:
            locks[variant.name] = failed[-1]  # it knows of those above
        else:
            locks[variant.name] = Lock(
                image=image,
                python=variant.python,
                stages=tuple(stage for stage in stages if isinstance(stage, StageLock)),
            )
    _report_notes(locks, report, bases_told=bases_told)
    return locks


def _lock_stages(
    variants: Sequence[Variant], pool: ThreadPoolExecutor, folder: Path
) -> dict[tuple[str, ...], StageLock | TemplateError]:
    """The stages of all variants, by `_key`: those without parents first, then those below them."""
    done: dict[tuple[str, ...], StageLock | TemplateError] = {}
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
    return done


def _report_notes(
    locks: Mapping[str, Lock | TemplateError], report: Reporter, *, bases_told: bool
) -> None:
    """Report each note once, for its variant where only one of several has it."""
    notes: dict[str, list[str]] = {}
    for name, lock in locks.items():
        if isinstance(lock, Lock):
            for note in lock.notes:
                if not (bases_told and note == lock.image.note):
                    notes.setdefault(note, []).append(name)
    for note, names in notes.items():
        variant = names[0] if len(names) == 1 < len(locks) else None
        report(Event(kind="warning", variant=variant, text=note))


def _image(reference: str, has_image: Callable[[str], bool]) -> BaseImage | UnknownImageError:
    try:
        return resolve_digest(reference)
    except UnknownImageError as error:
        if has_image(reference):
            return kept(reference, "the Docker engine of this machine alone has it")
        return error


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
            return _with_absent(parent, floor, chain, done, folder)
        parents.append(parent)
    backend = stage.torch_backend
    if any(p.torch_wanted == backend and p.torch_backend is None for p in parents if p.text):
        backend = None  # a stage above could not reach that index: one chain, one kind of PyTorch
    if not stage.requirements:
        text = ""
    else:
        try:
            text, backend = _compile_or_fall_back(floor, chain, parents, backend, folder)
        except uv.UvError as error:
            if not_found(error.output):
                return _absent(error.output, floor, chain, parents, done, folder)
            pins = {n: (v, p.stem) for p in parents for n, v in parse_pins(p.text)}
            return explain(error.output, chain, pins, folder)
        except TemplateError as error:
            return error
    lock = StageLock(
        stem=stage.stem,
        requirements=stage.requirements,
        text=text,
        torch_wanted=stage.torch_backend,
        torch_backend=backend,
    )
    return dataclasses.replace(lock, fallback_bytes=_size(lock, floor)) if lock.fell_back else lock


def _size(lock: StageLock, floor: str) -> int | None:
    """What there is to download of a stage, as far as its index says; nothing is downloaded."""
    from builder.lock.download_size import download_size

    with uv.private_folder() as private:
        requirements = private / "requirements.in"
        requirements.write_text(lock.text, encoding="utf-8")
        arguments = ["pip", "compile", "--universal", "--python", sys.executable, "--no-deps"]
        arguments += ["--python-version", floor, "--format", "pylock.toml", str(requirements)]
        try:
            doing = f"looking up the sizes of stage `{lock.stem}`"
            return download_size(uv.run(arguments, doing=doing, folder=private), floor)
        except (uv.UvError, NetworkError, ValueError):
            return None  # it is not known, and that is said


def _with_absent(
    error: TemplateError,
    floor: str,
    chain: Sequence[Stage],
    done: Mapping[tuple[str, ...], StageLock | TemplateError],
    folder: Path,
) -> TemplateError:
    """The error of a parent stage; where the index lacks packages of that, those of this stage that
    it lacks are named, too."""
    if not isinstance(error, LockConflictError) or not error.absent:
        return error
    try:
        _compile(floor, _without(chain, error.absent), (), None, folder)
    except uv.UvError as further:
        if not_found(further.output):
            return _absent(further.output, floor, chain, (), done, folder, error.absent)
    except TemplateError:
        pass
    return error


def _absent(
    output: str,
    floor: str,
    chain: Sequence[Stage],
    parents: Sequence[StageLock],
    done: Mapping[tuple[str, ...], StageLock | TemplateError],
    folder: Path,
    names: Sequence[str] = (),
) -> LockConflictError:
    """All packages of the stage that the index lacks: uv names the first, so ask without those."""
    absent, answer = list(names), output
    while new := [name for name in not_found(answer) if name not in absent]:
        absent += new
        rest = _without(chain, new)
        if rest == chain or len(absent) > _MOST_ABSENT:
            break
        try:
            _compile(floor, _without(chain, absent), parents, None, folder)
        except uv.UvError as error:
            answer = error.output
        except TemplateError:
            break
        else:
            break
    known = [n for s in done.values() if isinstance(s, StageLock) for n, _ in parse_pins(s.text)]
    return absent_packages(absent, chain, folder, known=known, output=output)


def _without(chain: Sequence[Stage], names: Sequence[str]) -> tuple[Stage, ...]:
    return tuple(
        dataclasses.replace(
            stage,
            requirements=tuple(
                text
                for text in stage.requirements
                if canonicalize_name(Requirement(text).name) not in names
            ),
        )
        for stage in chain
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
    except (NetworkError, uv.UvError) as error:
        if backend is None:
            raise
        if isinstance(error, uv.UvError) and not not_found(error.output):
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
    inherited = [entry for parent in parents for entry in entries(parent.text)]
    with uv.private_folder() as private:
        requirements, constraints = private / "requirements.in", private / "constraints.txt"
        requirements.write_text(
            "".join(f"{r}\n" for s in chain for r in s.requirements), encoding="utf-8"
        )
        constraints.write_text("".join(f"{pin}\n" for pin, _ in inherited), encoding="utf-8")
        # The interpreter is named: uv would look for one in the folder where the command is run.
        arguments = ["pip", "compile", "--universal", "--python", sys.executable]
        arguments += ["--python-version", floor, "--generate-hashes", "--no-header"]
        arguments += ["--no-annotate", "--no-progress", f"--constraints={constraints}"]
        arguments += [f"--torch-backend={backend}"] if backend else []
        lines: list[str] = []
        output = uv.run(
            [*arguments, str(requirements)],
            doing=f"resolving stage `{chain[-1].stem}`",
            on_line=lines.append,
            # A fallback follows where a backend's index is out of reach: do not try that one for
            # long.
            environment={"UV_HTTP_RETRIES": "1"} if backend else {},
            folder=private,
        )
    if problem := missing_extra("\n".join(lines), chain, folder):
        raise problem
    stage = chain[-1]
    text = _added(output, {pin for pin, _ in inherited}, stage)
    names = [name for part in (*(p.text for p in parents), text) for name, _ in parse_pins(part)]
    if missing := ", ".join(f'"{r}"' for r in missing_from(names, stage.requirements, floor)):
        raise LockConflictError(
            f"the lock of stage `{stage.stem}` lacks {missing}, which {stage.source} asks for, and"
            " was not written",
            hint="run the same command again; if that does not help, please report it, with what"
            f" uv said:\n{chr(10).join(lines)}",
        )
    if not is_lock_text(text):
        raise LockConflictError(
            f"the lock of stage `{stage.stem}` holds more than versions, markers and hashes, and"
            f" was not written:\n{text}",
            hint=f"write the markers of {stage.source} with printable characters",
        )
    return text


def _added(output: str, inherited: Collection[str], stage: Stage) -> str:
    """What a stage adds to the pins that it inherits, of uv's `output`."""
    added = []
    for pin, hashes in entries(output):
        if not hashes:
            raise LockConflictError(
                f"`{pin}` of stage `{stage.stem}` has no hashes in its index, and a lock"
                " without them protects nobody",
                hint="take the package from an index that gives hashes",
            )
        if pin not in inherited:
            added.append(" \\\n".join([pin, *(f"    --hash={h}" for h in sorted(hashes))]))
    return "".join(f"{entry}\n" for entry in added)
