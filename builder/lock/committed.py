"""Read the locks committed under `generated/`, and compare them with the specs."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from builder.errors import StaleLockError, TemplateError
from builder.lock import Lock, StageLock
from builder.lock.base_image import DIGEST, BaseImage
from builder.lock.content import LockedDownload, LockedModel
from builder.lock.npm import normal, package_json
from builder.lock.pins import is_lock_text, missing_from, parse_pins
from builder.spec import Parent, Stage, Variant
from builder.spec.addresses import wheel_of
from builder.spec.references import unset_variables
from builder.system.documents import parse_toml
from builder.system.regular_file import read_regular

_BACKEND = re.compile(r"[a-z0-9.]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LARGEST_BYTES = 16 << 20
_INVALID = (ValueError, KeyError, TypeError, AttributeError)
_UNREADABLE = (OSError, *_INVALID)


def read_committed(variants: Sequence[Variant], generated: Path) -> dict[str, Lock | TemplateError]:
    """Return the locks committed under `generated`, without using the network.

    A variant whose committed lock is missing, or does not match its spec, maps to a
    `StaleLockError` that says what differs.
    """
    locks: dict[str, Lock | TemplateError] = {}
    for variant in variants:
        try:
            locks[variant.name] = _committed(variant, generated / variant.name)
        except TemplateError as error:
            locks[variant.name] = error
    return locks


def _committed(variant: Variant, folder: Path) -> Lock:
    relock = "run `template-builder lock`"
    place = f"generated/{variant.name}"
    try:
        document = _document(folder)
        lock = _lock(document["lock"], folder)
        _check_shape(lock)
        packages = dict(document["lock"]["packages"])
        parent = _parent(document)
    except FileNotFoundError as error:
        raise StaleLockError(
            f"`{variant.name}` has no committed lock: {place}/template.toml does not exist",
            hint=relock,
        ) from error
    except OSError as error:
        raise StaleLockError(f"{error.filename} cannot be read: {error.strerror}") from error
    except _INVALID as error:
        raise StaleLockError(f"{place}/template.toml is not valid: {error}", hint=relock) from error
    if changes := [*_parent_changes(variant.parent, parent), *_changes(variant, lock)]:
        raise StaleLockError(
            f"the committed lock of `{variant.name}` does not match its spec:\n"
            + "\n".join(f"  {change}" for change in changes),
            hint=relock,
        )
    if gaps := list(_gaps(variant, lock, packages)):
        raise StaleLockError(
            f"the committed lock of `{variant.name}` is damaged:\n"
            + "\n".join(f"  {place}/{gap}" for gap in gaps),
            hint=f"restore {place} from version control, or {relock}",
        )
    return lock


def committed_parent(name: str, generated: Path) -> Parent | None:
    """Return the build that the committed lock of template `name` is from, if it can be read."""
    with contextlib.suppress(*_UNREADABLE):  # `read_committed` reports it
        return _parent(_document(generated / name))
    return None


def committed_variables(variant: Variant, image: str, generated: Path) -> dict[str, str]:
    """Return the variables of the base image in the committed lock of a variant, if the lock is for
    `image`."""
    with contextlib.suppress(*_UNREADABLE):  # `read_committed` reports it
        locked = _document(generated / variant.name)["lock"]
        return dict(locked.get("env", {})) if locked["image"] == image else {}
    return {}


def _document(folder: Path) -> dict[str, Any]:
    return parse_toml(read_regular(folder / "template.toml", _LARGEST_BYTES).decode())


def _parent(document: Mapping[str, Any]) -> Parent | None:
    table = document["lock"].get("parent")
    return None if table is None else Parent.of_toml(table)


def _lock(locked: Mapping[str, Any], folder: Path) -> Lock:
    """Return the lock described by template.toml, with the texts of the files in `folder`."""
    stages = tuple(
        StageLock(
            stem=entry["name"],
            requirements=tuple(entry["requirements"]),
            text=text_of(folder, entry["name"]),
            torch_wanted=entry.get("torch-backend-wanted"),
            torch_backend=entry.get("torch-backend"),
            fallback_bytes=entry.get("fallback-bytes"),
            node_packages=tuple(entry.get("node", ())),
            node=_node(folder / "node" / entry["name"], entry.get("node")),
            downloads=tuple(map(LockedDownload.of_toml, entry.get("downloads", ()))),
            models=tuple(map(LockedModel.of_toml, entry.get("models", ()))),
        )
        for entry in locked["stages"]
    )
    image = BaseImage(
        reference=locked["image"], digest=locked.get("digest"), note=locked.get("note")
    )
    env = locked.get("env", {})
    return Lock(image=image, python=locked["python"], stages=stages, env=env)


def text_of(folder: Path, stem: str) -> str:
    """Return the text of the lock of a stage, from the generated files in `folder`."""
    requirements = folder / "requirements"
    return _body(requirements / f"{stem}.txt") + _body(requirements / "commits" / f"{stem}.txt")


def _body(path: Path) -> str:
    """Return the text of a lock without its header; a stage that adds no package has no file."""
    try:
        text = read_regular(path, _LARGEST_BYTES).decode()
    except FileNotFoundError:
        return ""
    return "".join(f"{line}\n" for line in text.split("\n")[:-1] if not line.startswith("#"))


def _node(folder: Path, packages: Sequence[str] | None) -> str:
    """Return npm's lock of the packages of a stage. Raise `ValueError` if it is another's."""
    if not packages:
        return ""
    lock = read_regular(folder / "package-lock.json", _LARGEST_BYTES).decode()
    committed = read_regular(folder / "package.json", _LARGEST_BYTES).decode()
    if normal(lock) != lock or committed != package_json(packages):
        raise ValueError(f"node/{folder.name} is not as it was locked")
    return lock


def _check_shape(lock: Lock) -> None:
    """Keep manual edits and bad merges out of the Dockerfile. Raise `ValueError`."""
    image = lock.image
    if image.digest is not None and not DIGEST.fullmatch(image.digest):
        raise ValueError(f"`lock.digest` is {image.digest!r}")
    if image.note is not None and not (isinstance(image.note, str) and image.note.isprintable()):
        raise ValueError("`lock.note` is not one line of text")
    for name, value in lock.env.items():
        if not (_VARIABLE.fullmatch(name) and isinstance(value, str) and value.isprintable()):
            raise ValueError(f"`lock.env.{name}` is {value!r}")
    for stage in lock.stages:
        if stage.torch_backend is not None and not _BACKEND.fullmatch(stage.torch_backend):
            raise ValueError(f"`torch-backend` of stage {stage.stem!r} is {stage.torch_backend!r}")
        if stage.fallback_bytes is not None and type(stage.fallback_bytes) is not int:
            raise ValueError(
                f"`fallback-bytes` of stage {stage.stem!r} is {stage.fallback_bytes!r}"
            )
        if not is_lock_text(stage.text):
            raise ValueError(f"requirements/{stage.stem}.txt contains more than pins and hashes")


def _gaps(variant: Variant, lock: Lock, packages: Mapping[str, str]) -> Iterable[str]:
    """Yield the differences between the files of requirements/ and the lock."""
    names: list[str] = []
    for stage in lock.stages:
        names += [name for name, _ in parse_pins(stage.text)]
        for text in missing_from(names, stage.requirements, variant.python_floor):
            yield f"requirements/{stage.stem}.txt lacks `{text}`"
    pinned = lock.packages
    for name in sorted({*packages, *pinned}):
        listed, locked = (table.get(name, "no version") for table in (packages, pinned))
        if listed != locked:
            yield f"template.toml lists {listed} of `{name}`, requirements/ has {locked}"


def _parent_changes(new: Parent | None, old: Parent | None) -> Iterable[str]:
    if old and new and (old.reference, old.ref) != (new.reference, new.ref):
        yield (
            f"`from-template`: {old.reference}, {old.ref} on {old.target} →"
            f" {new.reference}, {new.ref} on {new.target}; `build` without `--frozen` locks it"
        )
    elif (old is None) != (new is None):
        yield f"`from-template` was {'removed' if old else 'added'}"


def _changes(variant: Variant, lock: Lock) -> Iterable[str]:
    if variant.image != lock.image.reference:
        yield f"`base.image`: {lock.image.reference} → {variant.image}"
    if variant.python != lock.python:
        yield f"`base.python`: {lock.python} → {variant.python}"
    if absent := [f"`${name}`" for name in unset_variables(variant) if name not in lock.env]:
        yield f"it lacks {' and '.join(absent)} of the base image"
    old, new = [s.stem for s in lock.stages], [s.stem for s in variant.stages]
    if old != new:
        yield f"stages: {' → '.join(old)} became {' → '.join(new)}"
        return
    for stage, locked in zip(variant.stages, lock.stages, strict=True):
        for change in (
            *_stage_changes(stage, locked),
            *_wheel_changes(stage, locked, lock),
            *_content_changes(stage, locked),
        ):
            yield f"{stage.source}: {change}"


def _stage_changes(stage: Stage, locked: StageLock) -> Iterable[str]:
    for requirement in locked.requirements:
        if requirement not in stage.requirements:
            yield f"`{requirement}` was removed from `python.packages`"
    for requirement in stage.requirements:
        if requirement not in locked.requirements:
            yield f"`{requirement}` was added to `python.packages`"
    if stage.node != locked.node_packages:
        was, now = ", ".join(locked.node_packages) or "none", ", ".join(stage.node) or "none"
        yield f"`node.packages`: {was} → {now}"
    if stage.torch_backend != locked.torch_wanted:
        was, now = locked.torch_wanted or "none", stage.torch_backend or "none"
        yield f"`python.torch-backend`: {was} → {now}"


def _wheel_changes(stage: Stage, locked: StageLock, lock: Lock) -> Iterable[str]:
    """Yield the wheels of the project that are not those that were locked."""
    if not stage.wheels:
        return
    new = set(stage.requirements) - set(locked.requirements)
    added = {wheel_of(requirement) for requirement in new}
    text = "".join(stage.text for stage in lock.stages)
    for wheel in stage.wheels:
        sha256 = hashlib.sha256(wheel.content).hexdigest()
        if wheel.source not in added and f"--hash=sha256:{sha256}" not in text:
            yield f"the content of `{wheel.source}` has changed"


def _content_changes(stage: Stage, locked: StageLock) -> Iterable[str]:
    """Yield the differences between the downloads and models of a stage and the locked ones."""
    kinds: tuple[tuple[str, Sequence[Any], Sequence[Any]], ...] = (
        ("downloads", locked.downloads, stage.downloads),
        ("models", locked.models, stage.models),
    )
    for kind, before, now in kinds:
        old, new = ([_title(each) for each in table] for table in (before, now))
        yield from (f"the {title} was removed" for title in old if title not in new)
        yield from (f"the {title} was added" for title in new if title not in old)
        if sorted(old) == sorted(new) and old != new:
            yield f"the order of the {kind} has changed"
        if old == new:
            pairs = zip(before, now, strict=True)
            yield from filter(None, (lock.difference(content) for lock, content in pairs))


def _title(content: Any) -> str:
    if hasattr(content, "url"):
        return f"download {content.url}"
    return f"{content.kind} {content.location}"
