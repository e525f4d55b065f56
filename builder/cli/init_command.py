"""The command that starts a project or adds a spec to one: init."""

from __future__ import annotations

import enum
import json
import os
import re
import shlex
import unicodedata
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from builder import spec
from builder.cli.output import Result
from builder.convert import Conversion, FileCopy, Folder, convert
from builder.errors import (
    Problem,
    ProjectError,
    SelectionError,
    SourceError,
    TemplateError,
    did_you_mean,
    from_os_error,
)
from builder.spec.models import schemas
from builder.system.files import atomic_write

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,127}")
_IGNORED = (".builder", "/.builder", ".builder/", "/.builder/")
_WORKFLOW = Path(".github", "workflows", "templates.yml")


class Ci(enum.StrEnum):
    """The CI services with a workflow."""

    github = "github"


def _name(value: str | None) -> str | None:
    if value is None or _NAME.fullmatch(value):
        return value
    raise typer.BadParameter(
        f"{value!r} is not a template name: use a-z, 0-9, - and _, at most 128 characters,"
        f" beginning with a letter or digit, such as `{default_name(value)}`"
    )


def init(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", callback=_name, help="The template's name; by default the folder's."
        ),
    ] = None,
    project: Annotated[
        Path | None,
        typer.Option(
            "--project", metavar="DIR", help="The project; by default the current folder."
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Convert a Dockerfile, e2b.toml, requirements.txt, pyproject.toml or"
            " environment.yml into the spec.",
        ),
    ] = None,
    ci: Annotated[
        Ci | None,
        typer.Option(
            "--ci",
            metavar="[github]",
            help="Add a workflow that checks every commit and rebuilds nightly.",
        ),
    ] = None,
) -> Result:
    """Start a project, or add a spec to one. Existing files are kept."""
    root = (project or Path.cwd()).absolute()
    specs = [path for path in root.glob("*.toml") if path.name != "pyproject.toml"]
    if root.name == "variants" and specs:
        raise ProjectError(
            f"{root} is the folder of the specs, not the project",
            hint="run the command in the folder above, or name that with --project",
        )
    conversion = _convert(source, root, name) if source else None
    files, name = _files(root, conversion.name if conversion else name, ci)
    if conversion:
        folder = root / "variants"
        del files[folder / "_base.toml"]  # the source says what is needed of it
        files[_file_of(folder, conversion.name)] = FileCopy(content=conversion.text.encode())
        files |= {folder / path: file for path, file in conversion.files.items()}
    written, kept = _write(files, root)
    (written if _ignore(root / ".gitignore") else kept).append(".gitignore")
    notes = conversion.notes if conversion else ()
    where = f" --project {shlex.quote(str(project))}" if project else ""
    return Result(
        json={"name": name, "written": written, "kept": kept}
        | ({"not_taken_over": [note.to_json() for note in conversion.notes]} if conversion else {}),
        text=[
            *(f"wrote {path}" for path in written),
            *(f"kept  {path}" for path in kept),
            *(["not taken over, or not in the same way:"] if notes else ()),
            *(f"  {note}" for note in notes),
            "next:",
            *(f"  template-builder {command}{where}" for command in ("plan", "build")),
        ],
    )


def _write(files: Mapping[Path, FileCopy], root: Path) -> tuple[list[str], list[str]]:
    """Write the files that are not there yet; return the paths of these, and of those kept."""
    written: list[str] = []
    kept: list[str] = []
    for path, file in files.items():
        exists = os.path.lexists(path)
        (kept if exists else written).append(os.path.relpath(path, root))
        if not exists:
            atomic_write(path, file.content, mode=0o755 if file.executable else None)
    return written, kept


def _files(root: Path, name: str | None, ci: Ci | None) -> tuple[dict[Path, FileCopy], str | None]:
    """Return the files of the project by path, and the template's name; None if the project has
    specs and no name was given."""
    folder = root / "variants"
    if name is None and not any(not path.stem.startswith("_") for path in folder.glob("*.toml")):
        name = default_name(root.name)
    texts = {folder / "_base.toml": _text("_base.toml")}
    if name is not None:
        variant = _text("variant.toml").replace("NAME", name)
        texts[_file_of(folder, name)] = variant
    for kind, content in schemas().items():
        texts[root / "schemas" / f"{kind}.schema.json"] = json.dumps(content, indent=2) + "\n"
    if ci:
        repository = next((f for f in (root, *root.parents) if (f / ".git").exists()), root)
        workflow = _text(f"{ci}.yml")
        if repository != root:
            within = json.dumps(root.relative_to(repository).as_posix())
            defaults = f"defaults:\n  run:\n    working-directory: {within}\njobs:\n"
            workflow = workflow.replace("jobs:\n", defaults, 1)
        texts[repository / _WORKFLOW] = workflow
    return {path: FileCopy(content=text.encode()) for path, text in texts.items()}, name


def _convert(source: Path, root: Path, name: str | None) -> Conversion:
    """Return the spec that a file becomes, if the project has none of that name."""
    try:
        if not source.is_file():
            raise SourceError([_not_a_file(source)])
        content = source.read_bytes()
    except OSError as error:
        raise from_os_error(error, f"reading `{source}`") from error
    variants = root / "variants"
    files = Folder(source.parent, without=variants, dockerfile=source.name)
    draft = convert(content, source.name, files)
    if draft.guessed:
        from builder.lock.presence import absent_from_index

        draft.drop(absent_from_index(draft.guessed))
    name = name or default_name(draft.name or root.name)
    path = _file_of(variants, name)
    if os.path.lexists(path):
        raise SelectionError(
            f"there is already a spec `{os.path.relpath(path, root)}`, and it is not overwritten",
            hint=f"give the template another name: template-builder init NAME --from"
            f" {shlex.quote(str(source))}",
        )
    has_base = (variants / "_base.toml").exists()
    return draft.conversion(name, extends="_base" if has_base else None)


def _not_a_file(source: Path) -> Problem:
    if source.exists():
        return Problem(str(source), "is not a regular file")
    names = os.listdir(source.parent) if source.parent.is_dir() else []
    return Problem(str(source), "there is no such file", hint=did_you_mean(source.name, names))


def _file_of(folder: Path, name: str) -> Path:
    """Return the path of the spec of template `name`, or the one for a new spec."""
    try:
        variants = spec.load_variants(folder) if folder.is_dir() else ()
    except TemplateError:
        variants = ()  # `validate` reports what is wrong
    stems = [variant.stem for variant in variants if variant.name == name]
    stem = name if spec.is_stem(name) else f"spec-{name}"
    return folder / f"{stems[0] if stems else stem}.toml"


def _ignore(path: Path) -> bool:
    """Have git ignore the project's state. Return False if it already does."""
    try:
        status = path.stat() if path.exists() else None
        content = path.read_bytes() if status else b""
    except OSError as error:
        raise from_os_error(error, f"reading `{path}`") from error
    lines = content.decode(errors="surrogateescape").splitlines()
    if any(line.strip() in _IGNORED for line in lines):
        return False
    end = b"\r\n" if b"\r\n" in content else b"\n"
    if content and not content.endswith(b"\n"):
        content += end
    mode = status.st_mode & 0o777 if status else 0o644
    atomic_write(path.resolve(), content + b".builder/" + end, mode=mode)
    return True


def default_name(text: str) -> str:
    """Return the valid template name closest to `text`."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9_-]+", "-", plain).strip("-_")[:128] or "template"


def _text(name: str) -> str:
    return resources.files(__package__).joinpath("project_template", name).read_text("utf-8")
