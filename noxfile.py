from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.10"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests"]

SIDE_BY_SIDE = ["--numprocesses=6"]  # tests wait more than they compute
# Each of the many processes of the tests would compile what it imports.
KEEP_BYTE_CODE = {"PYTHONDONTWRITEBYTECODE": None}
SDK_TESTS = [
    f"tests/server/test_{name}.py" for name in ("sdk", "e2b", "e2b_connection", "e2b_files")
]
UNIT = ["tests/unit", "-m", "not soak and not network"]
PROJECT = nox.project.load_toml("pyproject.toml")
TOOLS = "requirements-dev.txt"


def install(session: nox.Session, *groups: str) -> None:
    """Install the project, editable, with its extras, and the dependency groups named: the tools in
    their pinned versions, the project's own dependencies in the newest that it admits."""
    dependencies = nox.project.dependency_groups(PROJECT, *groups)
    packages = ["--editable", ".[all]", *dependencies, "--constraint", TOOLS]
    # As pip does. Otherwise, all processes of the tests would compile them at the same time.
    session.install(*packages, env={"UV_COMPILE_BYTECODE": "1"})


@nox.session
def build_templates(session: nox.Session) -> None:
    """Build, verify and record every template; arguments go to `template-builder build`."""
    install(session)
    session.run("template-builder", "build", *session.posargs)


@nox.session
def plan(session: nox.Session) -> None:
    """Say what build_templates would do, and why."""
    install(session)
    session.run("template-builder", "plan", *session.posargs)


@nox.session
def precheck(session: nox.Session) -> None:
    """Build and check with Docker; arguments go to `template-builder precheck`."""
    install(session)
    session.run("template-builder", "precheck", *session.posargs)


@nox.session
def render(session: nox.Session) -> None:
    """Write generated/ from the specs; `-- --check` compares only."""
    install(session)
    session.run("template-builder", "render", *session.posargs)


@nox.session
def unit(session: nox.Session) -> None:
    """Run the tests that need no network, engine or kernel; arguments go to pytest."""
    install(session, "tests")
    session.run("pytest", *UNIT, *(session.posargs or ["--numprocesses=auto"]), env=KEEP_BYTE_CODE)


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests except those of `slow` and `soak`; with arguments, what they select."""
    install(session, "tests")
    fast = [*SIDE_BY_SIDE, "-m", "not slow and not soak"]
    session.run("pytest", *(session.posargs or fast), env=KEEP_BYTE_CODE)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the tests that take more than about three seconds each, except those of `soak`."""
    install(session, "tests")
    marked = ["-m", "slow and not soak"]
    session.run("pytest", *marked, *(session.posargs or SIDE_BY_SIDE), env=KEEP_BYTE_CODE)


@nox.session
def oldest_sdk(session: nox.Session) -> None:
    """Run what proves most of E2B's SDK with its oldest version; `tests` has the newest."""
    install(session, "tests")
    (oldest,) = (
        dependency.partition(",")[0].removeprefix("e2b>=")
        for dependency in PROJECT["project"]["dependencies"]
        if dependency.startswith("e2b>=")
    )
    installed = session.run(
        "python", "-c", "import importlib.metadata as m; print(m.version('e2b'))", silent=True
    )
    if str(installed).startswith(f"{oldest}."):
        session.log(f"The newest version, {str(installed).strip()}, is the oldest that is admitted")
        return
    session.install(f"e2b=={oldest}")
    session.run("pytest", "--numprocesses=4", *(session.posargs or SDK_TESTS))


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the unit tests, and fail where they cover less than `fail_under` of pyproject.toml."""
    install(session, "tests")
    measured = ["--cov", "--cov-report=term:skip-covered"]
    session.run("pytest", *UNIT, *measured, "--numprocesses=auto", env=KEEP_BYTE_CODE)


@nox.session
def soak(session: nox.Session) -> None:
    """Run the long proofs, and 20 times as many random trials as `tests`; takes an hour."""
    install(session, "tests")
    long = ["-m", "soak or chance", "--rounds=20", "--timeout=0"]
    session.run("pytest", *long, *(session.posargs or SIDE_BY_SIDE), env=KEEP_BYTE_CODE)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting, the direction of imports, and that they are declared."""
    install(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports")
    session.run("deptry", "builder")
    session.run("deptry", "bench", "docs", "examples", "tests", "--ignore", "DEP002,DEP004")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types, strictly."""
    install(session, "types")
    session.install("nox")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Write the reference pages, then build the site into site/; a dead link fails."""
    install(session, "docs")
    session.run("python", "docs/generate.py", *session.posargs)
    session.run("zensical", "build", "--clean", "--strict")
    session.run("python", "docs/check_links.py", "site")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure; `-- --write` puts the tables into docs/benchmarks.md."""
    install(session, "tests", "bench")
    session.run("python", "-m", "bench", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build dist/, install the wheel into an empty environment, resolve, build and run with it."""
    session.install("build")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build", silent=True)
    (built,) = (path.resolve() for path in Path("dist").glob("*.whl"))
    resolve = (
        "from builder import registry; print(registry.resolve('tta-ml-minimal', target='e2b'))"
    )
    execute = (
        "import asyncio\n"
        "from builder.runtime import CodeExecutionPrimitive as Primitive\n"
        "async def main():\n"
        "    async with Primitive(template_id='trial', target='local') as executor:\n"
        "        result = await executor.execute({'code': 'import six; print(six.PY3)'})\n"
        "        assert result['output'] == 'True\\n', result\n"
        "asyncio.run(main())\n"
    )
    with tempfile.TemporaryDirectory() as folder, session.chdir(folder):
        environment = str(Path(folder, "environment"))
        session.run("python", "-m", "venv", environment)
        python = f"{environment}/bin/python"
        pip = [python, "-m", "pip", "install", "--quiet"]
        session.run(*pip, "--no-deps", str(built), external=True)
        session.run(python, "-c", resolve, external=True)
        session.run(*pip, str(built), external=True)
        program = f"{environment}/bin/template-builder"
        session.run(program, "init", "trial", external=True)
        spec = Path("variants", "trial.toml")
        spec.write_text(
            'schema = 1\nname = "trial"\nextends = "_base"\n[python]\npackages = ["six"]\n'
        )
        session.run(program, "build", "--target", "local", external=True)
        session.run(python, "-c", execute, external=True)


@nox.session
def pin(session: nox.Session) -> None:
    """Pin the newest development tools in requirements-dev.txt."""
    session.install("uv")

    def resolved(*groups: str) -> list[str]:
        named = [option for group in groups for option in ("--group", group)]
        options = ["--all-extras", "--universal", "--python-version=3.11", "--upgrade"]
        plain = ["--no-header", "--no-annotate", "--quiet"]
        command = ["uv", "pip", "compile", "pyproject.toml", *options, *plain, *named]
        return str(session.run(*command, silent=True)).splitlines()

    # The project's own dependencies stay free: the tests run with the newest that it admits.
    free = {line.partition("==")[0] for line in resolved()}
    tools = [
        line
        for line in resolved(*PROJECT["dependency-groups"])
        if line.partition("==")[0] not in free
    ]
    header = "# The development tools. Written by `nox -s pin`.\n"
    Path(TOOLS).write_text(header + "\n".join(tools) + "\n")
