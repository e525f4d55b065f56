"""Check a sandbox of any target: smoke tests, the checks of the spec, first uses.

Smoke tests import the modules that the distributions declare to install.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.errors import SandboxGoneError, VerifyError
from builder.sandbox.session import Sandbox
from builder.spec import Check, Stage, Variant, place_of
from builder.verify.running import answer_of, required, run
from builder.verify.spec_checks import succeed

NOT_WARMED = (
    "the random numbers of two sandboxes cannot be compared: `/opt/template/warmup.py` did not warm"
    " the interpreter that runs code; does `service.command` start that interpreter first?"
)
SMOKE_TIMEOUT_SECONDS = 300


Draws = frozenset[tuple[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    """A check that passed, and how long it took."""

    name: str
    seconds: float


def run_checks(
    sandbox: Sandbox,
    variant: Variant,
    packages: Mapping[str, str],
    step: Callable[[str], None],
    *,
    asks: bool = True,
    derived: Sequence[Check] = (),
) -> tuple[list[CheckResult], list[str]]:
    """Run every check of the variant, and `derived` ones; return those that passed, and the
    failures.

    `asks` says whether the service runs in the sandbox, for checks that ask it.
    """
    requirements = map(Requirement, variant.requirements)
    names = [(canonicalize_name(each.name), each.marker) for each in requirements]
    # The marker of a missing package excludes this platform.
    installed = dict.fromkeys(name for name, marker in names if not marker or name in packages)
    excluded = {canonicalize_name(name) for name in variant.not_imported}
    imported = [name for name in installed if name not in excluded]
    planned: list[tuple[str, Callable[[], CheckResult | str], Callable[[], str]]] = [
        (f"import {name}", partial(_smoke, sandbox, name), lambda: "") for name in imported
    ]
    planned += [(each.name, partial(_written, sandbox, each), lambda: "") for each in derived]
    for stage in variant.stages:
        for number, check in enumerate(stage.checks):
            if check.http and not asks:
                continue
            where = partial(_place, stage, ("verify", number, "name"))
            planned.append((check.name, partial(_written, sandbox, check), where))
    results: list[CheckResult] = []
    failures: list[str] = []
    for index, (title, check_now, place) in enumerate(planned):
        step(title)
        try:
            outcome = check_now()
        except SandboxGoneError:
            left = ", ".join(f"`{name}`" for name, _, _ in planned[index:])
            failures.append(f"not checked, because the sandbox had ended: {left}")
            break
        if isinstance(outcome, str):
            failures.append(f"{place()}check `{title}` failed: {outcome}")
        else:
            results.append(outcome)
    return results, failures


def not_imported(variant: Variant) -> list[str]:
    """Return a line about the packages that no check imports, if there are any."""
    names = ", ".join(f"`{name}`" for name in variant.not_imported)
    return [f"not checked, as `python.not-imported` says: the import of {names}"] if names else []


def first_use_seconds(sandbox: Sandbox, imports: Sequence[str]) -> dict[str, float]:
    """Import the modules in order; return seconds by module. Raise `VerifyError`."""
    code = (
        "import importlib, json, time\n"
        "seconds = {}\n"
        f"for name in {list(imports)!r}:\n"
        "    start = time.perf_counter()\n"
        "    importlib.import_module(name)\n"
        "    seconds[name] = round(time.perf_counter() - start, 6)\n"
        "print(json.dumps(seconds))\n"
    )
    return required(
        run(sandbox, code, "warm-up", SMOKE_TIMEOUT_SECONDS),
        dict,
        failed=f"the warm-up imports {', '.join(imports)} fail in a sandbox",
        hint="correct `warmup.imports`, or add the missing package",
    )


def draws(sandbox: Sandbox) -> Draws | None:
    """Draw a number from each random number generator of a copy of the warm interpreter.

    Return (name, value) pairs; None if the interpreter was not prepared for copies. Raise
    `VerifyError`.
    """
    code = (
        "import json, sys\n"
        "module = sys.modules.get('_template_reseed')\n"
        "print(json.dumps({'draws': module.draws()} if module else {}))\n"
    )
    execution = run(sandbox, code, "random numbers", SMOKE_TIMEOUT_SECONDS)
    answer = required(execution, dict, failed="the sandbox cannot draw random numbers")
    if "draws" not in answer:
        return None
    if not answer["draws"]:
        raise VerifyError("no random number generator was found in the warm interpreter")
    return _draws_of(answer["draws"])


def _draws_of(pairs: Sequence[Sequence[object]]) -> Draws:
    return frozenset((str(name), str(value)) for name, value in pairs)


def same_draws(first: Draws, second: Draws) -> list[str]:
    """Report equal numbers that were drawn in two copies of an interpreter."""
    return [
        f"the random number generator `{name}` draws the same numbers in every sandbox:"
        " reseed it in `warmup.reseed`"
        for name, _ in sorted(first & second)
    ]


def same_in_forks(sandbox: Sandbox) -> list[str]:
    """Report equal numbers drawn in two forks of the sandbox's warm interpreter, which replace
    copies of a machine. Raise `VerifyError`."""
    execution = run(sandbox, _FORKS, "random numbers", SMOKE_TIMEOUT_SECONDS)
    failed = "the forks of the warm interpreter cannot draw random numbers"
    answer = required(execution, list, failed=failed)
    if not answer:
        return [NOT_WARMED]
    return same_draws(*map(_draws_of, answer))


# A fork has no threads of the interpreter, so it draws and ends at once, or is killed.
_FORKS = """
import io, json, os, select, signal, sys, warnings

def drawn(module):
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        fork = os.fork()
    if fork == 0:
        try:
            sys.stdout = sys.stderr = io.StringIO()
            module.reseed(os.path.dirname(module.__file__))
            os.write(writing, json.dumps(module.draws()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    received = b""
    try:
        while select.select([reading], [], [], 60)[0] and (part := os.read(reading, 65536)):
            received += part
    finally:
        os.close(reading)
        os.kill(fork, signal.SIGKILL)
        os.waitpid(fork, 0)
    return json.loads(received)

module = sys.modules.get("_template_reseed")
print(json.dumps([drawn(module), drawn(module)] if module else []))
"""


def inventory(sandbox: Sandbox) -> dict[str, str]:
    """Return distribution → version in the sandbox's interpreter. Raise `VerifyError`."""
    # If several folders contain a distribution, the first one is imported.
    code = (
        "import importlib.metadata, json, re\n"
        "versions = {}\n"
        "for item in importlib.metadata.distributions():\n"
        "    name = re.sub(r'[-_.]+', '-', item.metadata['Name'] or '').lower()\n"
        "    if name: versions.setdefault(name, item.version)\n"
        "print(json.dumps(versions))\n"
    )
    execution = run(sandbox, code, "inventory", SMOKE_TIMEOUT_SECONDS)
    answer = required(execution, dict, failed="the sandbox cannot list its packages")
    return dict(sorted(answer.items()))


# The top-level modules of a distribution can be imported. If one of them has the name of the
# distribution, only that one must work; the others may be tests and tools. Debian's packages do not
# list their files, but most of them list their top-level modules.
MODULES_OF = """
import importlib.metadata, re

def modules_of(name):
    distribution = importlib.metadata.distribution(name)
    tops, packages = set(), set()
    for path in distribution.files or []:
        first, *rest = path.parts
        stem = first.partition(".")[0]
        if not stem.isidentifier() or first.endswith((".dist-info", ".data", ".egg-info", ".pth")):
            continue
        if rest and not rest[-1].endswith((".py", ".so", ".pyd")):
            continue
        if not rest and not first.endswith((".py", ".so", ".pyd")):
            continue
        tops.add(stem)
        if not rest or rest == ["__init__.py"]:
            packages.add(stem)
    declared = (distribution.read_text("top_level.txt") or "").split()
    own = re.sub(r"[-_.]+", "_", name).lower()
    modules = packages or tops or {t for t in declared if t.isidentifier()}
    public = sorted(t for t in modules if not t.startswith("_"))
    same = [t for t in public if t.lower() == own]
    unlikely = ("test", "tests", "doc", "docs", "example", "examples", "benchmarks", "scripts")
    return same or [t for t in public if t not in unlikely]
"""
_SMOKE = (
    MODULES_OF
    + """
import importlib, json
modules = modules_of(NAME)
for module in modules:
    importlib.import_module(module)
print(json.dumps(modules))
"""
)


def _place(stage: Stage, key: Sequence[str | int]) -> str:
    where = place_of(stage.path.parent, stage.source, key) if stage.path else stage.source
    return f"{where}: "


def _smoke(sandbox: Sandbox, name: str) -> CheckResult | str:
    code = _SMOKE.replace("NAME", repr(name))
    execution = run(sandbox, code, f"import {name}", SMOKE_TIMEOUT_SECONDS)
    modules = answer_of(execution, list)
    if isinstance(execution, str) or isinstance(modules, str):
        return str(modules)
    title = f"import {name}" + (f" ({', '.join(modules)})" if modules and modules != [name] else "")
    return CheckResult(name=title, seconds=round(execution.seconds, 6))


def _written(sandbox: Sandbox, check: Check) -> CheckResult | str:
    seconds = succeed(sandbox, check)
    return seconds if isinstance(seconds, str) else CheckResult(name=check.name, seconds=seconds)
