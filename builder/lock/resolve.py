"""Resolve each stage of a chain with uv, constrained by the locks of its parents.

Only this module decides what "latest" is. The result is text with hashes, without hosts or paths;
`builder.render` writes it to disk, and `builder.lock.committed` reads it back.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.errors import LockConflictError, NetworkError, SpecError, TemplateError
from builder.lock.base_image import (
    BaseImage,
    UnknownImageError,
    environment_of,
    inherited,
    kept,
    resolve_digest,
)
from builder.lock.base_variables import LookUp, base_variables
from builder.lock.conflict import absent_packages, explain, missing_extra, not_found, unknown_image
from builder.lock.direct import Direct, direct_of, for_uv, is_wheel, name_of, versions_of
from builder.lock.fetching import lock_content, with_content
from builder.lock.node import lock_node, with_node
from builder.lock.pins import entries, is_lock_text, missing_from, parse_pins
from builder.lock.values import Lock, StageLock
from builder.spec import Parent, Stage, Variant
from builder.spec.addresses import address_of
from builder.system import processes, uv
from builder.system.events import Event, Reporter

_JOBS = 8
_MOST_ABSENT = 20


def lock_latest(
    variants: Sequence[Variant],
    *,
    folder: Path,
    report: Reporter,
    has_image: Callable[[str], bool] = lambda _: False,
    image_variables: LookUp = environment_of,
    bases_reported: bool = False,
) -> dict[str, Lock | TemplateError]:
    """Resolve every variant to the latest packages that its specs allow.

    Shared stages are resolved once, independent ones in parallel. `folder` is the variants folder,
    for positions in errors; `has_image` returns whether this machine has an image that its registry
    does not give, `image_variables` the variables of an image, if they are known. Base images that
    are not pinned are reported unless the plan does so (`bases_reported`). The result maps the name
    of each variant to its lock or to its error
    (`LockConflictError`, `NetworkError`, `SpecError`, `FetchError`).
    """
    with ThreadPoolExecutor(max_workers=_JOBS) as pool, processes.interruptible():
        looked_up = {
            reference: pool.submit(_image, reference, has_image)
            for reference in {variant.image for variant in variants if not variant.parent}
        }
        fetching = pool.submit(lock_content, variants, report)
        done = _lock_stages(variants, pool, folder)
        content = fetching.result()
        node = lock_node(variants)
        images = {reference: future.result() for reference, future in looked_up.items()}
    locks: dict[str, Lock | TemplateError] = {}
    known = functools.cache(image_variables)
    for variant in variants:
        stages = [done[_key(variant, n + 1)] for n in range(len(variant.stages))]
        failed = [stage for stage in stages if isinstance(stage, TemplateError)]
        image = inherited(variant.parent) if variant.parent else images[variant.image]
        if isinstance(image, UnknownImageError):
            locks[variant.name] = unknown_image(variant, image.why, folder)
        elif failed:
            locks[variant.name] = failed[-1]  # it includes those above
        elif isinstance(env := base_variables(variant, image, known, folder), SpecError):
            locks[variant.name] = env
        else:
            lock = Lock(
                image=image,
                python=variant.python,
                stages=tuple(stage for stage in stages if isinstance(stage, StageLock)),
                env=env,
            )
            whole = with_content(lock, variant, content)
            locks[variant.name] = (
                with_node(whole, variant, node) if isinstance(whole, Lock) else whole
            )
    _report_notes(locks, report, bases_reported=bases_reported)
    return locks


def _lock_stages(
    variants: Sequence[Variant], pool: ThreadPoolExecutor, folder: Path
) -> dict[tuple[str, ...], StageLock | TemplateError]:
    """Resolve the stages of all variants, parents first; by `_key`."""
    done: dict[tuple[str, ...], StageLock | TemplateError] = {}
    for depth in range(1, max((len(variant.stages) for variant in variants), default=0) + 1):
        locks = [lock for lock in done.values() if isinstance(lock, StageLock)]
        names = frozenset(name for lock in locks for name, _ in parse_pins(lock.text))
        running: dict[tuple[str, ...], Future[StageLock | TemplateError]] = {}
        for variant in variants:
            key = _key(variant, depth)
            if len(variant.stages) < depth or key in running:
                continue
            parents = [done[key[:length]] for length in range(2, len(key))]
            chain = _Chain(
                floor=variant.python_floor,
                stages=variant.stages[:depth],
                parents=tuple(lock for lock in parents if isinstance(lock, StageLock)),
                names=names,
                folder=folder,
                template=variant.parent,
            )
            failed = next((lock for lock in parents if isinstance(lock, TemplateError)), None)
            running[key] = (
                pool.submit(chain.with_absent, failed) if failed else pool.submit(chain.lock)
            )
        done |= {key: future.result() for key, future in running.items()}
    return done


def _report_notes(
    locks: Mapping[str, Lock | TemplateError], report: Reporter, *, bases_reported: bool
) -> None:
    """Report each note once, with a variant if only one of several has it."""
    notes: dict[str, list[str]] = {}
    for name, lock in locks.items():
        if isinstance(lock, Lock):
            for note in lock.notes:
                if not (bases_reported and note == lock.image.note):
                    notes.setdefault(note, []).append(name)
    for note, names in notes.items():
        variant = names[0] if len(names) == 1 < len(locks) else None
        report(Event(kind="warning", variant=variant, text=note))


def _image(reference: str, has_image: Callable[[str], bool]) -> BaseImage | UnknownImageError:
    try:
        return resolve_digest(reference)
    except UnknownImageError as error:
        if has_image(reference):
            return kept(reference, "only the Docker engine of this machine has it")
        return error


def _key(variant: Variant, depth: int) -> tuple[str, ...]:
    return (variant.python_floor, *(stage.stem for stage in variant.stages[:depth]))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chain:
    """A stage to resolve for Pythons from `floor` on, preceded by its parents and their locks.

    `names` are packages that the index is known to have, `folder` is the variants folder. The first
    stage is on the build `template`, if there is one.
    """

    floor: str
    stages: tuple[Stage, ...]
    parents: tuple[StageLock, ...]
    names: frozenset[str]
    folder: Path
    template: Parent | None = None

    @property
    def stage(self) -> Stage:
        return self.stages[-1]

    def without(self, names: Sequence[str]) -> _Chain:
        """Return the chain without the requirements for the packages `names`."""

        def kept(text: str) -> bool:
            return canonicalize_name(Requirement(text).name) not in names

        return dataclasses.replace(
            self,
            stages=tuple(
                dataclasses.replace(stage, requirements=tuple(filter(kept, stage.requirements)))
                for stage in self.stages
            ),
        )

    def lock(self) -> StageLock | TemplateError:
        stage, backend, text = self.stage, self.stage.torch_backend, ""
        if any(p.torch_wanted == backend and not p.torch_backend for p in self.parents if p.text):
            backend = None  # a parent fell back: one chain, one kind of PyTorch
        try:
            if stage.requirements:
                text, backend = self.compile_or_fall_back(backend)
        except uv.UvError as error:
            if not_found(error.output):
                return self.absent_error(error.output)
            below = self.template
            pins = {n: (v, below.title) for n, v in below.pins.items()} if below else {}
            pins |= {n: (v, p.stem) for p in self.parents for n, v in parse_pins(p.text)}
            return explain(error.output, self.stages, pins, self.folder)
        except TemplateError as error:
            return error
        lock = StageLock(
            stem=stage.stem,
            requirements=stage.requirements,
            text=text,
            torch_wanted=stage.torch_backend,
            torch_backend=backend,
        )
        return (
            dataclasses.replace(lock, fallback_bytes=self.download_bytes(text))
            if lock.fell_back
            else lock
        )

    def download_bytes(self, text: str) -> int | None:
        """Return the download size of a lock, if its index lists it; nothing is downloaded."""
        from builder.lock.download_size import download_size

        with uv.private_folder() as private:
            try:
                arguments = ["--no-deps", "--format", "pylock.toml"]
                doing = f"looking up the sizes of stage `{self.stage.stem}`"
                return download_size(self.resolved(text, arguments, doing, private), self.floor)
            except (uv.UvError, NetworkError, ValueError):
                return None  # the size is unknown

    def resolved(
        self, requirements: str, arguments: Sequence[str], doing: str, folder: Path, **options: Any
    ) -> str:
        """Run uv, and return what it resolves `requirements` to."""
        path = folder / "requirements.in"
        path.write_text(requirements, encoding="utf-8")
        # Without --python, uv would look for an interpreter in the working directory.
        command = ["pip", "compile", "--universal", "--python", sys.executable]
        command += ["--python-version", self.floor, *arguments, str(path)]
        return uv.run(command, doing=doing, folder=folder, **options)

    def with_absent(self, error: TemplateError) -> TemplateError:
        """Add the packages of this stage that the index lacks to such an error of a parent."""
        if isinstance(error, LockConflictError) and error.absent:
            alone = dataclasses.replace(self, parents=())
            try:
                alone.without(error.absent).compile(None)
            except uv.UvError as further:
                if not_found(further.output):
                    return alone.absent_error(further.output, error.absent)
            except TemplateError:
                pass
        return error

    def absent_error(self, output: str, names: Sequence[str] = ()) -> LockConflictError:
        """Find all packages that the index lacks: uv names only the first, so retry without it."""
        absent, answer = list(names), output
        while new := [name for name in not_found(answer) if name not in absent]:
            absent += new
            if self.without(new) == self or len(absent) > _MOST_ABSENT:
                break
            try:
                self.without(absent).compile(None)
            except uv.UvError as error:
                answer = error.output
            except TemplateError:
                break
            else:
                break
        return absent_packages(absent, self.stages, self.folder, known=self.names, output=output)

    def compile_or_fall_back(self, backend: str | None) -> tuple[str, str | None]:
        """Return the stage's lock and its backend: None, the default index, if that of `backend`
        does not answer or a filter answers instead."""
        try:
            return self.compile(backend), backend
        except (NetworkError, uv.UvError) as error:
            if backend is None:
                raise
            if isinstance(error, uv.UvError) and not not_found(error.output):
                raise
            if any(f"+{backend}" in parent.text for parent in self.parents):
                raise  # the chain already has builds of that backend
        return self.compile(None), None

    def compile(self, backend: str | None) -> str:
        inherited = [pin for parent in self.parents for pin, _ in entries(parent.text)]
        direct, lines = direct_of(self.stages, self.folder), list[str]()
        with uv.private_folder() as private:
            constraints = private / "constraints.txt"
            # The requirements repeat every address.
            bounds = [pin for pin in inherited if not address_of(pin)]
            installed = self.template.pins.items() if self.template else ()
            bounds += [f"{name}=={version}" for name, version in installed]
            constraints.write_text("".join(f"{pin}\n" for pin in bounds), encoding="utf-8")
            arguments = ["--generate-hashes", "--no-header", "--no-annotate", "--no-progress"]
            arguments += [f"--constraints={constraints}"]
            arguments += [f"--torch-backend={backend}"] if backend else []
            output = self.resolved(
                "".join(
                    f"{for_uv(text, direct)}\n"
                    for stage in self.stages
                    for text in stage.requirements
                ),
                arguments,
                f"resolving stage `{self.stage.stem}`",
                private,
                on_line=lines.append,
                # The index of a backend has a fallback: do not retry for long.
                environment={"UV_HTTP_RETRIES": "1"} if backend else {},
            )
        reasoning = "\n".join(lines)
        if problem := missing_extra(reasoning, self.stages, self.folder):
            raise problem
        versions = self.versions([pin for pin, _ in entries(output) if address_of(pin)])
        text = _added(output, inherited, self.stage, direct.values(), versions)
        self.check(text, reasoning)
        return text

    def versions(self, pins: Sequence[str]) -> dict[str, str]:
        """Return the versions of pins with an address; uv has just read them."""
        pylock = ""
        if unclear := [pin for pin in pins if not is_wheel(str(address_of(pin)))]:
            with uv.private_folder() as private:
                arguments = ["--no-deps", "--format", "pylock.toml"]
                doing = f"looking up versions of stage `{self.stage.stem}`"
                text = "".join(f"{pin}\n" for pin in unclear)
                pylock = self.resolved(text, arguments, doing, private)
        return versions_of(pins, pylock)

    def check(self, text: str, reasoning: str) -> None:
        """Raise `LockConflictError` for a lock that uv should never produce."""
        stage = self.stage
        texts = [*(parent.text for parent in self.parents), text]
        names = [name for part in texts for name, _ in parse_pins(part)]
        missing = missing_from(names, stage.requirements, self.floor)
        if listed := ", ".join(f'"{requirement}"' for requirement in missing):
            raise LockConflictError(
                f"the lock of stage `{stage.stem}` lacks {listed}, which {stage.source}"
                " requires; it was not written",
                hint="run the same command again; if that does not help, please report it with"
                f" uv's output:\n{reasoning}",
            )
        if not is_lock_text(text):
            raise LockConflictError(
                f"the lock of stage `{stage.stem}` contains more than versions, markers and"
                f" hashes; it was not written:\n{text}",
                hint=f"write the markers of {stage.source} with printable characters",
            )


def _added(
    output: str,
    inherited: Collection[str],
    stage: Stage,
    direct: Iterable[Direct],
    versions: Mapping[str, str],
) -> str:
    """Return the pins of uv's `output` that the stage does not inherit, commits last.

    `versions` are those of pins with an address, which may belong to one of `direct`.
    """
    by_address = {each.address: each for each in direct}
    hashed, commits = list[str](), list[str]()
    for pin, hashes in entries(output):
        address, lines = address_of(pin) or "", [pin]
        if known := by_address.get(address):
            known.check(hashes)
            lines = [pin.replace(address, known.locked, 1)]
        is_commit = address.startswith("git+")
        if not hashes and not is_commit:
            raise LockConflictError(
                f"`{pin}` of stage `{stage.stem}` has no hashes in its index; a lock needs them",
                hint="use an index that provides hashes",
            )
        if lines[0] in inherited:
            continue
        lines = [" \\\n".join([*lines, *(f"    --hash={h}" for h in sorted(hashes))])]
        if address:
            lines.append(f"    # {name_of(pin)}=={versions[pin]}")
        (commits if is_commit else hashed).append("".join(f"{line}\n" for line in lines))
    return "".join([*hashed, *commits])
