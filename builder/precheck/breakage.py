"""Find requirements and imports of a base image that installing packages broke.

It compares idle containers of both images, as root, like the code of a sandbox. A module that
imports on demand can be imported although nothing in it works, so its attributes are tried, too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.utils import canonicalize_name

from builder.errors import PrecheckError
from builder.precheck.machine_sandbox import InterpreterSandbox
from builder.spec import Variant
from builder.system.documents import parse_json
from builder.system.files import atomic_write
from builder.verify.checks import MODULES_OF, inventory

if TYPE_CHECKING:
    from builder.precheck.machine import Machine

_TIMEOUT_SECONDS = 3600
_MODULE_SECONDS = 300
_INCOMPATIBLE = ", "  # "a 1 has requirement b<2, but you have b 2.", "a 1 requires b, which is…"
_SCRIPT = "/tmp/imports.py"  # noqa: S108 - of the machine, which is ours alone


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """The content of a base image.

    `packages` is distribution → version, `conflicts` is the output of `pip check`, `imports` is
    distribution → module → names that the module imports on demand, as far as they work.
    `byte_code` is in bytes.
    """

    packages: Mapping[str, str]
    conflicts: tuple[str, ...]
    imports: Mapping[str, Mapping[str, Sequence[str]]]
    byte_code: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Broken:
    """A distribution of the base image that an install broke, and how."""

    name: str
    text: str


# In a single process, since one for each module would repeat the same imports. What fails there is
# retried alone, so that no module is blamed for another.
_TRY_IMPORTS = (
    MODULES_OF
    + """
import importlib, json, os, signal, sys
limit, answers = int(sys.argv[1]), sys.argv[0] + ".answers"
with open(sys.argv[0] + ".wanted") as file:
    wanted = json.load(file)

def names_on_demand(module):
    if not hasattr(module, "__getattr__"):
        return []
    return sorted(set(getattr(module, "__all__", None) or dir(module)) - set(vars(module)))

def attempt(name, names):
    statement, works, failure = "import " + name, [], None
    try:
        module = importlib.import_module(name)
        for attribute in names_on_demand(module) if names is None else names:
            statement = "from {} import {}".format(name, attribute)
            try:
                getattr(module, attribute)
                works.append(attribute)
            except AttributeError:
                pass
            except Exception as error:
                failure = failure or failed(statement, error)
    except BaseException as error:
        return {"failure": failed(statement, error), "names": None}
    return {"failure": failure, "names": works}

def failed(statement, error):
    reason = (str(error).strip().splitlines() or [""])[0]
    words = filter(None, [type(error).__name__, reason])
    return "`{}` fails: {}".format(statement, ": ".join(words))

def attempt_in_order(tasks):
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    with open(answers, "w") as file:
        for _, name, names in tasks:
            signal.alarm(limit)
            file.write(json.dumps(attempt(name, names)) + "\\n")
            file.flush()

def attempted(tasks):
    open(answers, "w").close()
    child = os.fork()
    if not child:
        try:
            attempt_in_order(tasks)
        finally:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    with open(answers) as file:
        answered = [json.loads(line) for line in file if line.endswith("\\n")]
    if len(answered) == len(tasks):
        return answered
    how = "ends the interpreter"
    if os.WIFSIGNALED(status):
        how += " with signal {}".format(os.WTERMSIG(status))
        if os.WTERMSIG(status) == signal.SIGALRM:
            how = "does not end within {} seconds".format(limit)
    failure = "`import {}` {}".format(tasks[len(answered)][1], how)
    return answered + [{"failure": failure, "names": None}]

if wanted is None:
    known = {item.metadata["Name"] for item in importlib.metadata.distributions()}
    distributions = sorted(filter(None, known))
    tasks = [(distribution, name, None)
             for distribution in distributions for name in modules_of(distribution)]
else:
    tasks = wanted
results = []
while len(results) < len(tasks):
    results += attempted(tasks[len(results):])
for index, result in enumerate(results):
    if result["failure"]:
        (results[index],) = attempted([tasks[index]])
print(json.dumps([[*task, result] for task, result in zip(tasks, results)]))
"""
)
_BYTE_CODE = """
import os, sys
print(sum(os.path.getsize(os.path.join(parent, name))
    for top in sys.path if top.endswith("-packages")
    for parent, _, names in os.walk(top) for name in names if name.endswith(".pyc")))
"""


def look_into(machine: Machine) -> Base:
    """Return the content of a base image. Raise `PrecheckError`, `VerifyError`."""
    imports: dict[str, dict[str, list[str]]] = {}
    for name, module, _, answer in _imports(machine, None):
        if answer["names"] is not None:
            imports.setdefault(name, {})[module] = answer["names"]
    return Base(
        packages=inventory(InterpreterSandbox(machine)),
        conflicts=_conflicts(machine),
        imports=imports,
        byte_code=byte_code(machine),
    )


def kept(folder: Path, image: str) -> Base | None:
    """Return the stored content of an image; None if it was not examined before."""
    try:
        content = parse_json(_place(folder, image).read_text(encoding="utf-8"))
        return Base(**{**content, "conflicts": tuple(content["conflicts"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(folder: Path, image: str, base: Base) -> None:
    """Store the content of an image. Raise `StorageError`."""
    text = json.dumps(dataclasses.asdict(base), indent=2, sort_keys=True) + "\n"
    atomic_write(_place(folder, image), text.encode())


def _place(folder: Path, image: str) -> Path:
    key = hashlib.sha256(f"{image}\0{_TRY_IMPORTS}".encode()).hexdigest()
    return folder / "bases" / f"{key}.json"


def what_broke(machine: Machine, base: Base) -> tuple[Broken, ...]:
    """Return what works in the base image but not in the image. Raise `PrecheckError`."""
    failures = [
        Broken(name=canonicalize_name(line.split()[0]), text=line)
        for line in _conflicts(machine)
        if line not in base.conflicts
    ]
    tasks = [
        (name, module, names)
        for name, modules in base.imports.items()
        for module, names in modules.items()
    ]
    failures += [
        Broken(name=canonicalize_name(name), text=f"{name}: {answer['failure']}")
        for name, _, _, answer in _imports(machine, tasks)
        if answer["failure"]
    ]
    return tuple(sorted(failures, key=lambda broken: (broken.name, broken.text)))


def refuse(broken: Sequence[Broken], variant: Variant) -> None:
    """Raise `PrecheckError` unless the spec accepts everything that is broken."""
    refused = [entry for entry in broken if entry.name not in _accepted(variant)]
    if not refused:
        return
    line = f"accept-broken = {json.dumps(sorted({entry.name for entry in broken}))}"
    raise PrecheckError(
        f"installing the packages of `{variant.name}` broke packages of the base image:\n"
        + "\n".join(f"  {entry.text}" for entry in refused),
        hint=f"require versions that both can use, or accept the breakage: [python] {line}",
    )


def accepted_in_vain(broken: Sequence[Broken], variant: Variant) -> list[str]:
    """Return a line for each distribution that the spec accepts as broken but works."""
    works = _accepted(variant) - {entry.name for entry in broken}
    return [f"`{name}` works: remove it from `python.accept-broken`" for name in sorted(works)]


def byte_code(machine: Machine) -> int:
    """Return the size of the byte code of all packages. Raise `PrecheckError`."""
    _, out, _ = machine.run(["python3", "-c", _BYTE_CODE], user="root", timeout=_TIMEOUT_SECONDS)
    return int(out)


def _accepted(variant: Variant) -> set[str]:
    return {canonicalize_name(name) for name in variant.accept_broken}


def _conflicts(machine: Machine) -> tuple[str, ...]:
    """Return a line for each conflict among the installed distributions.

    pip asks the interpreter; uv would only look into one of the two folders of Debian's Python.
    """
    words = ["python3", "-m", "pip", "check"]
    _, out, _ = machine.run(words, user="root", timeout=_MODULE_SECONDS)
    return tuple(sorted(line.strip() for line in out.splitlines() if _INCOMPATIBLE in line))


def _imports(
    machine: Machine, tasks: Sequence[tuple[str, str, Sequence[str]]] | None
) -> list[tuple[str, str, Any, dict[str, Any]]]:
    """Try the imports of `tasks`, by default of the whole image.

    Return (distribution, module, names, answer): its `names` are those that work, None if the
    module fails; `failure` describes an error.
    """
    machine.write(_SCRIPT, _TRY_IMPORTS.encode())
    machine.write(f"{_SCRIPT}.wanted", json.dumps(tasks).encode())
    words = ["python3", _SCRIPT, str(_MODULE_SECONDS)]
    code, out, err = machine.run(words, user="root", timeout=_TIMEOUT_SECONDS)
    if code:
        raise PrecheckError(f"the packages of the image cannot be tried: {err.strip() or code}")
    return [tuple(row) for row in parse_json(out)]
