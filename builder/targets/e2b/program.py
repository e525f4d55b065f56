"""Turn a Program into a template of the SDK, and report features of a spec that E2B lacks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import e2b

from builder.flatten import Step
from builder.spec import Stage, Variant, place_in
from builder.spec.variant import DEFAULT_WORKDIR, FileEntry
from builder.targets.e2b.service import SPOILING
from builder.targets.protocol import BuildInput

# Folders whose content E2B gives mode 0777 at the end of a build.
_OPENED = ("/usr/local", "/code")


def template_of(order: BuildInput) -> Any:
    """Return the SDK's template of the Program of `order`.

    With `order.force`, the steps that another build of this run has just run are not forced.
    """
    program = order.program
    assert program is not None
    template = e2b.Template(file_context_path=str(order.folder))
    if program.base_template:
        builder = template.from_template(program.base_template)
    else:
        builder = template.from_image(program.base_image)
    for number, step in enumerate(program.steps):
        if order.force and number == order.shared:
            builder.skip_cache()
        _add(builder, step)
    if program.start_command and program.ready_command:
        return builder.set_start_cmd(program.start_command, program.ready_command)
    return builder


def serialized(order: BuildInput) -> dict[str, Any]:
    """Return the template as E2B's API takes it, with the hashes of its files."""
    template: dict[str, Any] = json.loads(e2b.Template.to_json(template_of(order)))
    template["force"] |= order.force and order.shared == 0
    return template


def not_provided(variant: Variant) -> tuple[str, ...]:
    """Return a line for each variable, file mode and owner of a variant that E2B cannot provide."""
    variables = (
        f"`env.{name}` ({place_in(variant.stages, ('env', name))}) to programs that run code with"
        " E2B's SDK alone: the code service turns the value into code, and a quote or backslash in"
        " it breaks the first execution in a sandbox"
        for name, value in variant.env.items()
        if any(character in value for character in SPOILING)
    )
    modes = (
        f"mode {file.mode} of {file.target} ({place_in([stage], ('files', number, 'target'))}):"
        f" E2B gives everything below {folder} mode 0777 at the end of a build"
        for stage in variant.stages
        for number, file in _numbered_files(stage)
        for folder in _OPENED
        if file.target.startswith(f"{folder}/") and file.mode != "0777"
    )
    owners = (
        f"owner {file.owner} of {file.target} ({place_in([stage], ('files', number, 'owner'))}):"
        " E2B gives everything below /home/user to `user` at the end of a build"
        for stage in variant.stages
        for number, file in _numbered_files(stage)
        if file.target.startswith("/home/user/") and file.owner != "user"
    )
    place = place_in(variant.stages, ("workdir", "path"))
    folder = (
        f"`workdir.path` ({place}) to code, which the code service starts in {DEFAULT_WORKDIR};"
        f" commands start in {variant.workdir}"
    )
    moved = (folder,) if variant.workdir != DEFAULT_WORKDIR and variant.command else ()
    return (
        *variables,
        *modes,
        *_fetched_not_provided(variant),
        *owners,
        *moved,
        *_network_not_provided(variant),
    )


def _network_not_provided(variant: Variant) -> Iterator[str]:
    """Yield a line if the spec lists hosts, whose names E2B reads from the traffic."""
    if variant.network and variant.network.hosts:
        yield (
            f"`network` ({place_in(variant.stages, ('network',))}) for anything but HTTP on port 80"
            " and TLS on port 443: E2B sees the name of a host only there, and refuses all other"
            " connections, except to DNS at 8.8.8.8"
        )


def _fetched_not_provided(variant: Variant) -> Iterator[str]:
    """Yield a line for each mode and owner of what a variant fetches that E2B replaces."""
    fetched = [
        (stage, (kind, number, "target"), target, mode)
        for stage in variant.stages
        for kind, number, target, mode in (
            *(("download", each.number, each.target, each.mode) for each in stage.downloads),
            *((each.kind, each.number, each.target, "0644") for each in stage.models),
        )
    ]
    for stage, key, target, mode in fetched:
        for folder in _OPENED:
            if f"{target}/".startswith(f"{folder}/") and mode != "0777":
                yield (
                    f"the modes of {target} ({place_in([stage], key)}): E2B gives everything below"
                    f" {folder} mode 0777 at the end of a build"
                )
    for stage in variant.stages:
        for each in stage.downloads:
            if f"{each.target}/".startswith("/home/user/") and each.owner != "user":
                yield (
                    f"the owner `root` of {each.target}"
                    f" ({place_in([stage], ('download', each.number, 'owner'))}): E2B gives"
                    " everything below /home/user to `user` at the end of a build"
                )


def needs_no_network(variant: Variant) -> str | None:
    """Return which commands must run without a network, which E2B cannot do, or None."""
    places = [
        place_in([stage], ("run", number, "network"))
        for stage in variant.stages
        for number, run in enumerate(stage.runs)
        if not run.network
    ]
    if not places:
        return None
    return f"E2B runs every command with a network: remove `network = false` ({', '.join(places)})"


def _numbered_files(stage: Stage) -> Iterator[tuple[int, FileEntry]]:
    """Yield the number of the `[[files]]` table of each file, and the file."""
    singles = iter(stage.files)
    folders = {folder.key[1]: folder for folder in stage.folders}
    for number in range(len(stage.files) + len(folders)):
        if number in folders:
            yield from ((number, file) for file in folders[number].files)
        else:
            yield number, next(singles)


def _add(builder: Any, step: Step) -> None:
    args = step.args
    if step.kind == "RUN":
        builder.run_cmd(args[0], user=args[1] or None)
    elif step.kind == "COPY":
        mode = int(args[3], 8) if args[3] else None
        builder.copy(args[0], args[1], user=args[2] or None, mode=mode)
    elif step.kind == "ENV":
        builder.set_envs(dict(zip(args[::2], args[1::2], strict=True)))
    elif step.kind == "WORKDIR":
        builder.set_workdir(args[0])
    else:
        builder.set_user(args[0])
