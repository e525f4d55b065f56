"""Notes for code that failed at a limit of its sandbox: the limit, and how to change it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from builder.sandbox.execution import Execution
from builder.sandbox.network import Network
from builder.targets.local.confine import refusals
from builder.targets.local.confine.limits import STACKS_MB, Limits
from builder.targets.local.confine.refusals import Refusal

_LAST_CHARACTERS = 20_000
_SIGNS = {
    "memory": r"MemoryError|[Cc]annot allocate memory|can't allocate memory|[Uu]nable to allocate|"
    r"bad_alloc|ENOMEM",
    "disk": r"No space left on device|File too large",
    "processes": r"can't start new thread|Resource temporarily unavailable|Cannot fork",
    "files": r"Too many open files",
    "network": r"[Nn]ame resolution|Name or service not known|Network is unreachable|"
    r"Could not resolve host|[Uu]nable to resolve|Failed to resolve|nodename nor servname|"
    r"No address associated with hostname|ENOTFOUND|EAI_AGAIN",
}


def notes(
    execution: Execution, limits: Limits, network: Network, refused: Mapping[Refusal, int]
) -> tuple[str, ...]:
    """Return the notes for an execution; `refused` counts the refusals of each host during it."""
    return (*refusals.notes(refused), *_met(execution, limits, network))


def _met(execution: Execution, limits: Limits, network: Network) -> Iterator[str]:
    texts = (execution.error or "", execution.traceback, execution.stderr, execution.stdout)
    text = "\n".join(part[-_LAST_CHARACTERS:] for part in texts)
    words = {
        "memory": f"the sandbox has {limits.memory_mb} MiB of memory: `resources.memory-mb` in the"
        " spec changes that",
        "disk": f"the sandbox may have {limits.disk_mb} MiB of files, and in /tmp and /dev/shm"
        f" {limits.memory_mb // 2} MiB each (half of `resources.memory-mb`)",
        "processes": f"the sandbox may have {limits.processes} processes and threads, and each"
        f" process {limits.memory_mb + STACKS_MB} MiB of memory and stacks of threads",
        "files": f"a process in the sandbox may have {limits.open_files} files open",
        "network": _without_network(network),
    }
    # Shell commands and `%pip` fail without an error of the code.
    names = _SIGNS if execution.error else ("network",)
    return (words[name] for name in names if re.search(_SIGNS[name], text))


def _without_network(network: Network) -> str:
    if network.is_none:
        return (
            'the sandbox has no network: `network = ["example.com"]` or `network = "allow"` in the'
            " spec, or `network=` when it is opened, changes that"
        )
    return (
        "the sandbox reaches other hosts only through the HTTP proxy in HTTP_PROXY and HTTPS_PROXY,"
        " which resolves their names"
    )
