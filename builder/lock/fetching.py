"""Lock what specs fetch beside packages, and obtain what a lock names.

A file whose hash is known is fetched at most once: the store has it then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from builder.errors import FetchError, InterruptedRunError, TemplateError
from builder.lock import downloads
from builder.lock.content import ContentFile, LockedDownload, LockedModel
from builder.lock.models import fetch_object, lock_model
from builder.lock.values import Lock
from builder.spec import Stage, Variant, place_of
from builder.system import store
from builder.system.events import Event, Reporter, discard

_JOBS = 4

_Key = tuple[str, str, int]  # the stem of a stage, the table, and the number in it
_Result = LockedDownload | LockedModel | TemplateError
Locked = Mapping[_Key, _Result]


def lock_content(variants: Sequence[Variant], report: Reporter) -> Locked:
    """Lock everything that the variants fetch, each source once at a time."""
    stages = {stage.stem: stage for variant in variants for stage in variant.stages}
    by_source: dict[object, list[tuple[_Key, Callable[[], _Result]]]] = {}
    for stage in stages.values():
        for source, key, lock in _work(stage, report):
            by_source.setdefault(source, []).append((key, lock))
    if not by_source:
        return {}

    def lock_all(work: Sequence[tuple[_Key, Callable[[], _Result]]]) -> dict[_Key, _Result]:
        return {key: lock() for key, lock in work}

    locked: dict[_Key, _Result] = {}
    with ThreadPoolExecutor(max_workers=_JOBS) as pool:
        for results in pool.map(lock_all, by_source.values()):
            locked |= results
    return locked


def _work(stage: Stage, report: Reporter) -> Iterator[tuple[object, _Key, Callable[[], _Result]]]:
    """Yield the source of each thing to lock, its key, and how to lock it."""

    def placed(key: _Key, source: str, lock: Callable[[], _Result]) -> Callable[[], _Result]:
        def run() -> _Result:
            try:
                return lock()
            except InterruptedRunError:
                raise
            except TemplateError as error:
                place = stage.source
                if stage.path:
                    place = place_of(stage.path.parent, stage.source, (*key[1:], source))
                return type(error)(f"{place}: {error.message}", hint=error.hint)

        return run

    for download in stage.downloads:
        key = (stage.stem, "download", download.number)
        lock = placed(key, "url", lambda each=download: downloads.lock_download(each, report))  # type: ignore[misc]
        yield download.url, key, lock
    for model in stage.models:
        key = (stage.stem, model.kind, model.number)
        lock = placed(key, model.source, lambda each=model: lock_model(each, report))  # type: ignore[misc]
        yield (model.kind, model.location), key, lock


def with_content(lock: Lock, variant: Variant, locked: Locked) -> Lock | TemplateError:
    """Return a lock with the content of its stages, or the error of what failed."""
    stages, errors = [], []
    for stage, stage_lock in zip(variant.stages, lock.stages, strict=True):
        results = [
            *(locked[stage.stem, "download", each.number] for each in stage.downloads),
            *(locked[stage.stem, each.kind, each.number] for each in stage.models),
        ]
        errors += [each for each in results if isinstance(each, TemplateError)]
        stages.append(
            dataclasses.replace(
                stage_lock,
                downloads=tuple(each for each in results if isinstance(each, LockedDownload)),
                models=tuple(each for each in results if isinstance(each, LockedModel)),
            )
        )
    if errors:
        return _joined(errors)
    return dataclasses.replace(lock, stages=tuple(stages))


def _joined(errors: Sequence[TemplateError]) -> TemplateError:
    """Return one error for several; what a spec can correct goes before other reasons."""
    first = next((error for error in errors if isinstance(error, FetchError)), errors[0])
    hints = dict.fromkeys(error.hint for error in errors if error.hint)
    message = "\n".join(error.message for error in errors)
    return type(first)(message, hint="; ".join(hints) or None)


def obtain(file: ContentFile, *, report: Reporter = discard) -> Path:
    """Return a locked file in the store, fetched again if the store has lost it. Raise
    `FetchError` if it has changed, `NetworkError`, `StorageError`, `MissingExtraError`."""
    if path := store.find(file.sha256):
        return path
    sha256 = _fetched(file, report)
    if sha256 != file.sha256:
        raise FetchError(
            f"{file.url or file.local} has changed since it was locked:\n"
            f"  SHA-256 in the lock: {file.sha256}\n"
            f"  SHA-256 of the file: {sha256}",
            hint="`template-builder lock` takes the new file, if you trust it",
        )
    path = store.find(sha256)
    assert path, "it was just stored"
    return path


def _fetched(file: ContentFile, report: Reporter) -> str:
    if not file.url.startswith("http") or file.hub:
        report(Event(kind="step", text=f"fetching {file.url or file.local}"))
    if file.hub:
        from builder.lock import hub

        return hub.fetch(file.hub, file.path)
    if file.local:
        return _copied(file.local)
    if file.url.startswith("http"):
        return downloads.fetch(file.url, known=True, report=report)
    return fetch_object(file.url)


def _copied(path: Path) -> str:
    try:
        with path.open("rb") as file, store.incoming() as incoming:
            while chunk := file.read(1 << 20):
                incoming.write(chunk)
            incoming.keep()
            return incoming.sha256
    except OSError as error:
        raise FetchError(f"`{path}` cannot be read: {error.strerror}") from error
