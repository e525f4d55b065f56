"""Report parts of the Dockerfile language that E2B lacks, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from e2b_dockerfile_utils import DockerfileInstruction

from builder.flatten.stages import Report, Scope, flags_of

_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*:|git@", re.IGNORECASE)
_LOST_FLAGS = {
    "RUN": {
        "network": "E2B runs every step in the same network",
        "security": "E2B runs every step with the same privileges",
        "device": "E2B's build machines have no devices",
    },
    "COPY": {
        "from": "E2B builds a single machine: there is no other stage or image to copy from",
        "link": "E2B always copies on top of the layers below",
        "exclude": "E2B would copy the excluded files, too",
        "parents": "E2B would drop the folders above the file",
    },
}
_INSTEAD = {
    "network": "remove the flag; in a spec, remove `network = false`",
    "security": "remove the flag",
    "device": "remove the flag",
    "from": "create the files in this chain of stages, or fetch them in a RUN",
    "link": "remove the flag",
    "exclude": "list the files to copy",
    "parents": "write the whole target path",
}
_NO_MOUNTS = "E2B has no build mounts: everything that the step needs must be in a layer"
_NO_SECRETS = "a build on E2B has no secrets: the template keeps all that its steps see"
_OUTSIDE = "fetch what needs it before the build; give secrets to sandboxes when you create them"
_MOUNTS = {
    "bind": (_NO_MOUNTS, "COPY the files, or fetch them in the command"),
    "cache": (_NO_MOUNTS, "remove the flag, and remove the cache in the same RUN"),
    "tmpfs": (_NO_MOUNTS, "remove the flag, and remove temporary files in the same RUN"),
    "secret": (_NO_SECRETS, _OUTSIDE),
    "ssh": (_NO_SECRETS, _OUTSIDE),
}
_PLATFORMS = {
    "linux/amd64", "linux/x86_64", "linux/x86-64", "linux/amd64/v1", "amd64", "x86_64", "x86-64",
}  # fmt: skip
# Docker accepts these more than once.
_REPEATABLE = {"mount", "device", "exclude"}
_HARMLESS_FLAGS = {("network", "default"), ("security", "sandbox"), ("link", "false")}
METADATA = {
    "LABEL": "labels are not part of a sandbox",
    "MAINTAINER": "an author is not part of a sandbox",
    "EXPOSE": "every port of a sandbox can be reached",
    "STOPSIGNAL": "a sandbox is stopped as a machine, not with a signal",
}


def check_flags(
    instruction: DockerfileInstruction, kept: Collection[str], report: Report
) -> dict[str, str]:
    """Return the flags of an instruction by name, and report those that are not in `kept`."""
    pairs = list(flags_of(instruction))
    flags = dict(pairs)
    lost = _LOST_FLAGS.get(instruction.name, {})
    once = [name for name, _ in pairs if name not in _REPEATABLE]
    if len(set(once)) < len(once):
        report.add(instruction, "a flag is given twice", "remove one of them")
    for name, value in flags.items():
        if name in kept and value:
            continue
        key = f"{instruction.name} --{name}"
        if name in kept:
            report.add(instruction, "the flag needs a value", f"--{name}=…", key=key)
        elif (instruction.name, name) == ("RUN", "mount"):
            _check_mounts(instruction, [value for flag, value in pairs if flag == name], report)
        elif name in lost and (name, value) not in _HARMLESS_FLAGS:
            report.add(instruction, lost[name], _INSTEAD[name], key=key)
        elif name not in lost:
            report.add(instruction, "unknown flag", key=key)
    return flags


def _check_mounts(
    instruction: DockerfileInstruction, mounts: Sequence[str], report: Report
) -> None:
    """Report what each kind of mount would lose, once."""
    for mount in mounts:
        fields = dict(field.partition("=")[::2] for field in mount.split(","))
        kind = fields.get("type", "bind")
        message, hint = _MOUNTS.get(kind, (f"there is no mount of type `{kind}`", None))
        report.add(instruction, message, hint, key="RUN --mount")


def check_from(opening: DockerfileInstruction, base: str, outer: Scope) -> None:
    """Report a FROM with another platform than E2B's, or whose image is none after expansion."""
    report = outer.report
    flags = check_flags(opening, {"platform"}, report)
    platform = outer.expand(opening, flags.get("platform", ""))
    if platform and platform.lower() not in _PLATFORMS:
        report.add(
            opening,
            f"E2B's machines are linux/amd64, not {platform}",
            "remove --platform, or write --platform=linux/amd64",
            key="FROM --platform",
        )
    if base == "scratch":
        report.add(
            opening,
            "E2B needs a base image with an operating system",
            "write FROM debian:stable-slim, or another image",
        )
    elif not base or base.startswith((":", "@")) or base.endswith((":", "@", "/")):
        result = f"is `{base}`, which is no image," if base else "is empty"
        message = f"`{opening.args[0]}` {result} after expansion"
        report.add(opening, message, "give the ARG a default")


def check_add(instruction: DockerfileInstruction, report: Report) -> None:
    """Report what ADD can do and neither COPY nor E2B can."""
    if any(_REMOTE.match(word) for word in instruction.args):
        message = "E2B has no step that fetches a URL"
        hint = "fetch and verify it in a RUN: curl -fsSLo FILE URL && sha256sum -c"
    else:
        message = "Docker unpacks archives, E2B copies them unchanged"
        hint = "use COPY, and unpack archives in a RUN"
    report.add(instruction, message, hint)
