"""What E2B cannot do of the Dockerfile language, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Collection

from e2b_dockerfile_utils import DockerfileInstruction

from builder.flatten.stages import Report, flags_of

_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*:|git@", re.IGNORECASE)
_LOST_FLAGS = {
    "RUN": {
        "mount": "E2B has no mounts in a build: what the step needs must be in a layer",
        "network": "E2B has one network for every step",
        "security": "E2B has one privilege for every step",
        "device": "E2B's build machines have no devices",
    },
    "COPY": {
        "from": "E2B builds one machine, and there is no other stage or image to copy from",
        "link": "E2B copies onto the layers below, and never beside them",
        "exclude": "E2B would copy what is excluded, too",
        "parents": "E2B would drop the folders above the file",
    },
}
_INSTEAD = {
    "mount": "COPY the file, or have the command fetch it; remove caches in the same RUN",
    "network": "leave the flag out",
    "security": "leave the flag out",
    "device": "leave the flag out",
    "from": "make the files in this chain of stages, or fetch them in a RUN",
    "link": "leave the flag out",
    "exclude": "name the files that are wanted",
    "parents": "write the whole target path",
}
_HARMLESS_FLAGS = {("network", "default"), ("security", "sandbox"), ("link", "false")}
METADATA = {
    "LABEL": "labels are not part of a sandbox",
    "MAINTAINER": "an author is not part of a sandbox",
    "EXPOSE": "every port of a sandbox can be reached",
    "STOPSIGNAL": "a sandbox is ended as a machine, not by a signal",
}


def check_flags(
    instruction: DockerfileInstruction, kept: Collection[str], report: Report
) -> dict[str, str]:
    """The flags of an instruction by name; those that are not `kept` are reported."""
    flags = flags_of(instruction)
    lost = _LOST_FLAGS.get(instruction.name, {})
    if len(flags) < len(instruction.flags):
        report.add(instruction, "a flag is given twice", "leave one of them out")
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
    """ADD has two abilities that COPY does not have, and E2B has neither of them."""
    if any(_REMOTE.match(word) for word in instruction.args):
        message = "E2B cannot fetch a URL in a step of its own"
        hint = "fetch it in a RUN, and check what came: curl -fsSLo FILE URL && sha256sum -c"
    else:
        message = "Docker unpacks an archive that it is given, E2B copies it as it is"
        hint = "write COPY, and unpack an archive in a RUN"
    report.add(instruction, message, hint)
