"""This program's assumptions about E2B, and the verdicts from a sandbox's report. Pure.

docs/e2b.md has the same list, and a test compares them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

ASSUMPTIONS = {
    "build": "a spec becomes a template that is built, verified, tagged and recorded",
    "tags": "a published build has the tags of its digest and its channel, and `default`",
    "default": "a build that is given a tag does not move `default`",
    "order": "a template lists its builds, the one that was requested last first",
    "source": "no tag is moved from a tag that does not exist",
    "cache": "steps that an earlier build has run come from the cache, and the log says so",
    "variables": "`[env]` reaches the interpreter, each value to the character",
    "login": "`[env]` reaches what `commands.run` starts, each value to the character",
    "warm": "what was imported before the snapshot is imported in each sandbox",
    "accounts": "code runs as `root` and `commands.run` as `user`, both in /home/user",
    "ownership": "files in /home/user belong to `user`, those in /usr/local have mode 0777, and"
    " others keep owner and mode",
    "tmp": "the folder for temporary files is in memory, and may take half of it",
    "output": "standard output, standard error, results and errors arrive, each as such",
    "interrupt": "code that runs too long is interrupted, and its variables are kept",
    "metadata": "sandboxes can be listed by their metadata",
    "lifetime": "a sandbox that is to live longer than the account allows can be created for less",
    "network": "a sandbox has the network that it is created with",
    "unknown": "no sandbox is created from a tag that does not exist",
    "undeletable": "the tag `default` cannot be removed",
    "left": "a build can be reached by its ID after a tag has moved on from it",
    "unreachable": "a build cannot be reached after its last tag was removed",
    "overtaken": "of two builds with one tag, the newer has it at once",
    "cancelled": "the older of them ends as cancelled or superseded, and names no step",
    "used": "the list of templates says when each was last used",
    "busy": "a template is not deleted while a sandbox of it runs",
    "deleted": "a deleted template is gone, and its name with it",
}

# What a shell, Python or E2B's builder might misread.
ENV = {
    "TEMPLATE_DOCTOR_PLAIN": "a  b $HOME ${X} `id` $(id) #x !y ~",
    "TEMPLATE_DOCTOR_QUOTES": 'it\'s "so" \\n \\\\ end',
}
# Target → mode of files that belong to root when they are copied.
FILES = {
    "/home/user/template-doctor": "0600",
    "/usr/local/share/template-doctor": "0600",
    "/opt/template-doctor/kept": "0640",
}
WARM_MODULE = "colorsys"
HOSTS = ("example.com", "*.example.org")
SUM = "print(1 + 1)"
OUTPUT = "import sys; print('out'); print('err', file=sys.stderr); 6 * 7"
ENDLESS = "kept = 41\nwhile True: pass"
AFTERWARDS = "print(kept + 1)"


def inspection() -> str:
    """Return code that prints the facts of its sandbox as JSON."""
    return f"""
import json as _json, os as _os, pwd as _pwd, stat as _stat, sys as _sys
_warm = {WARM_MODULE!r} in _sys.modules

def _entry(path):
    try:
        status = _os.stat(path)
        return [_pwd.getpwuid(status.st_uid).pw_name, f"{{_stat.S_IMODE(status.st_mode):04o}}"]
    except (OSError, KeyError) as error:
        return str(error)

def _mounted():
    with open("/proc/mounts") as file:
        return {{line.split()[1]: line.split()[2] for line in file}}.get("/tmp", "no mount")

def _memory():
    with open("/proc/meminfo") as file:
        return int(file.readline().split()[1]) * 1024

_tmp = _os.statvfs("/tmp")
print(_json.dumps({{
    "warm": _warm,
    "variables": {{name: _os.environ.get(name) for name in {sorted(ENV)!r}}},
    "user": _pwd.getpwuid(_os.getuid()).pw_name,
    "folder": _os.getcwd(),
    "files": {{path: _entry(path) for path in {sorted(FILES)!r}}},
    "tmp": _mounted(),
    "tmp_bytes": _tmp.f_blocks * _tmp.f_frsize,
    "memory_bytes": _memory(),
}}))
"""


def verdicts(output: str, command: str | None) -> Iterator[tuple[str, bool, str]]:
    """Yield the verdicts on the output of `inspection`, and of `id -un; pwd; env -0` by
    `commands.run` (None if that failed): the key, whether it holds, and what was observed."""
    seen: Mapping[str, Any] = json.loads(output)
    yield "warm", seen["warm"], f"{WARM_MODULE} is {'' if seen['warm'] else 'not '}imported"
    yield "variables", seen["variables"] == ENV, _values(seen["variables"])
    owners = {path: seen["files"][path] for path in FILES}
    expected = [["user", "0600"], ["root", "0777"], ["root", "0640"]]
    yield "ownership", list(owners.values()) == expected, json.dumps(owners)
    share = seen["tmp_bytes"] / seen["memory_bytes"]
    memory_share = f"{seen['tmp']}, {share:.0%} of the memory"
    yield "tmp", seen["tmp"] == "tmpfs" and 0.45 < share < 0.55, memory_share
    if command is None:
        return
    user, folder, variables = command.split("\n", 2)
    values = dict(variable.partition("=")[::2] for variable in variables.split("\0"))
    reached = {name: values.get(name) for name in sorted(ENV)}
    yield "login", reached == ENV, _values(reached)
    accounts = [(seen["user"], seen["folder"]), (user, folder)]
    right = accounts == [("root", "/home/user"), ("user", "/home/user")]
    yield "accounts", right, "; ".join(f"{name} in {place}" for name, place in accounts)


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.lower().rpartition('_')[2]}: {v!r}" for name, v in values.items())
