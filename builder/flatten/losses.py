"""Report parts of the Dockerfile language that E2B lacks, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Collection

from e2b_dockerfile_utils import DockerfileInstruction

from builder.flatten.stages import Report, flags_of

_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*:|git@", re.IGNORECASE)
_LOST_FLAGS = {
    "RUN": {
        "mount": "E2B has no build mounts: everything that the step needs must be in a layer",
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
    "mount": "COPY the file, or fetch it in the command; remove caches in the same RUN",
    "network": "remove the flag",
    "security": "remove the flag",
    "device": "remove the flag",
    "from": "create the files in this chain of stages, or fetch them in a RUN",
    "link": "remove the flag",
    "exclude": "list the files to copy",
    "parents": "write the whole target path",
}
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
    flags = flags_of(instruction)
    lost = _LOST_FLAGS.get(instruction.name, {})
    if len(flags) < len(instruction.flags):
        report.add(instruction, "a flag is given twice", "remove one of them")
    for name, value in flags.items():
        if name in kept or (name, value) in _HARMLESS_FLAGS:
            continue
        key = f"{instruction.name} --{name}"
        if name in lost:
            report.add(instruction, lost[name], _INSTEAD[name], key=key)
        else:
            report.add(instruction, "unknown flag", key=key)
    return flags


def check_add(instruction: DockerfileInstruction, report: Report) -> None:
    """Report what ADD can do and neither COPY nor E2B can."""
    if any(_REMOTE.match(word) for word in instruction.args):
        message = "E2B has no step that fetches a URL"
        hint = "fetch and verify it in a RUN: curl -fsSLo FILE URL && sha256sum -c"
    else:
        message = "Docker unpacks archives, E2B copies them unchanged"
        hint = "use COPY, and unpack archives in a RUN"
    report.add(instruction, message, hint)
