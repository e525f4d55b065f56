from __future__ import annotations

import ast
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from e2b_dockerfile_utils import ShellLex, parse_dockerfile_ast
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

from builder.errors import RenderDriftError, SpecError, StorageError
from builder.project import Project
from builder.render import Rendered, drift, render, write
from tests.conftest import ASCII_LOCALE, BASE, ROOT
from tests.support.here import results_of
from tests.support.program import start_program
from tests.support.samples import load, lock_of, rendered_of

LEAF = "schema = 1\nname = 'leaf'\nextends = '_base'\n"
SERVICE = "[service]\ncommand = ['run', 'it']\nready-url = 'http://localhost:1/health'\n"
FULL = (
    LEAF
    + 'description = "Everything at once"\n'
    + SERVICE
    + """
[env]
PLAIN = "/opt/x"
ODD = 'a "b" $$c \\ `d` #e'
PATH = "/opt/bin:/usr/bin"
[system]
packages = ["git", "libgl1"]
[python]
packages = ["idna", "six"]
torch-backend = "cpu"
[[files]]
source = "tool.sh"
target = "/usr/local/bin/tool"
mode = "0755"
[warmup]
level = "memory"
imports = ["idna", "six"]
[[verify]]
name = "it works"
code = "print(1)"
stdout = "1"
"""
)


class DockerfileSnapshot(SingleFileSnapshotExtension):
    """One readable file a snapshot."""

    _write_mode = WriteMode.TEXT
    file_extension = "Dockerfile"


@pytest.fixture
def dockerfile(snapshot: SnapshotAssertion) -> SnapshotAssertion:
    return snapshot.use_extension(DockerfileSnapshot)


def one(folder: Path, leaf: str) -> Rendered:
    return rendered_of(load(folder, _base=BASE, leaf=leaf)["leaf"])


def full(folder: Path) -> Rendered:
    (folder / "variants").mkdir()
    (folder / "variants" / "tool.sh").write_text("#!/bin/sh\n")
    variant = load(folder, _base=BASE, leaf=FULL)["leaf"]
    return render(variant, lock_of(variant, torch_backend="cpu"))


def test_minimal_dockerfile(tmp_path: Path, dockerfile: SnapshotAssertion) -> None:
    """A variant that adds nothing renders to its base, the installer and the account."""
    assert one(tmp_path, LEAF).content("Dockerfile").decode() == dockerfile


def test_full_dockerfile(tmp_path: Path, dockerfile: SnapshotAssertion) -> None:
    """Everything that a spec can say has its place, in the order that caches best."""
    assert full(tmp_path).content("Dockerfile").decode() == dockerfile


def test_disk_dockerfile(tmp_path: Path, dockerfile: SnapshotAssertion) -> None:
    """Level disk warms in a layer and needs no service."""
    text = LEAF + "[warmup]\nlevel = 'disk'\nimports = ['json']\n"
    assert one(tmp_path, text).content("Dockerfile").decode() == dockerfile


def test_packages_by_address_dockerfile(tmp_path: Path, dockerfile: SnapshotAssertion) -> None:
    """A wheel of the project is copied before the packages, and commits come after those that have
    hashes, without the option that they could not meet."""
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "own-1.0-py3-none-any.whl").write_bytes(b"")
    commit = f"library @ git+https://git.example.com/library.git@{'0' * 40}"
    packages = f"[python]\npackages = ['own @ own-1.0-py3-none-any.whl', '{commit}']\n"
    variant = load(tmp_path, _base=BASE, leaf=LEAF + packages)["leaf"]
    base, leaf = lock_of(variant).stages
    place = "file:///opt/template/wheels/leaf/own-1.0-py3-none-any.whl"
    text = (
        f"own @ {place} \\\n    --hash=sha256:{'0' * 64}\n    # own==1.0\n"
        f"{commit}\n    # library==2.0\n"
    )
    stages = (base, dataclasses.replace(leaf, text=text))
    rendered = render(variant, dataclasses.replace(lock_of(variant), stages=stages))
    assert rendered.content("Dockerfile").decode() == dockerfile
    assert rendered.locked == {"library": "2.0", "own": "1.0"}


def test_template_toml(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    """template.toml is the resolved variant and what its lock decided, as TOML that reads back."""
    text = full(tmp_path).content("template.toml").decode()
    assert text == snapshot
    assert tomllib.loads(text)["lock"]["packages"] == {"idna": "1.0", "six": "1.0"}


def test_warmup_script(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    """warmup.py is a script that stands on its own, with the variant's values at its top."""
    assert full(tmp_path).content("warmup.py").decode() == snapshot


def test_generated_is_what_the_specs_render_to() -> None:
    """generated/ is, to the byte, what the specs and the committed locks of this project say."""
    project = Project.find(ROOT)
    results = results_of(project, frozen=True).values()
    rendered = [value for value in results if isinstance(value, Rendered)]
    assert len(rendered) == len(results) == 4
    drift(rendered, project.generated, all_variants=True)


def test_shared_stages_are_byte_identical() -> None:
    """The stages that two templates share are the same text in both Dockerfiles."""
    texts = [
        (ROOT / "generated" / f"tta-{k}-minimal" / "Dockerfile").read_text()
        for k in ("ml", "vision")
    ]
    shared = [
        t[t.index("# ---- variants/_base") : t.index("# Only for this template")] for t in texts
    ]
    start = shared[0].rindex("# ----")
    assert shared[0][:start] == shared[1][:start]
    assert "AS shared-torch" in shared[0][:start]


@ASCII_LOCALE
def test_render_does_not_depend_on_the_process() -> None:
    """Two processes with other hash seeds, locales and folders render the same digests."""

    def digests(seed: str, locale: str) -> str:
        found = subprocess.run(
            [sys.executable, "-m", "builder", "render", "--check", "--json", "--project", ROOT],
            capture_output=True,
            text=True,
            check=True,
            cwd="/",
            env=os.environ | {"PYTHONHASHSEED": seed, "LC_ALL": locale, "TZ": locale},
        )
        return found.stdout

    assert digests("1", "C") == digests("2", "C.UTF-8")


def test_files_carry_no_host_and_no_path() -> None:
    """No generated file holds a URL of an index or a folder of the machine that made it."""
    for path in (ROOT / "generated").rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert str(ROOT) not in text
            assert "https://" not in text
            assert "--index" not in text


def test_write_then_drift_is_silent(tmp_path: Path) -> None:
    """What was just written does not differ, and what is no variant's any more is gone."""
    generated = tmp_path / "generated"
    rendered = one(tmp_path, LEAF)
    stale = generated / "gone"
    stale.mkdir(parents=True)
    (stale / "template.toml").write_text("")
    foreign = generated / "notes"
    foreign.mkdir()
    (generated / "leaf" / "requirements").mkdir(parents=True)
    (generated / "leaf" / "requirements" / "old.txt").write_text("")
    write([rendered], generated, all_variants=True)
    drift([rendered], generated, all_variants=True)
    assert not stale.exists()
    assert foreign.exists()


def test_drift_names_every_file(tmp_path: Path) -> None:
    """A hand edit, a missing file, a stranger and an orphan are all named."""
    generated = tmp_path / "generated"
    rendered = one(tmp_path, LEAF)
    write([rendered], generated, all_variants=True)
    (generated / "leaf" / "Dockerfile").write_text("FROM scratch\n")
    (generated / "leaf" / "warmup.py").unlink()
    (generated / "leaf" / "extra").write_text("")
    (generated / "gone").mkdir()
    (generated / "gone" / "template.toml").write_text("")
    with pytest.raises(RenderDriftError) as caught:
        drift([rendered], generated, all_variants=True)
    assert str(caught.value) == (
        "generated/ does not match the specs and the committed locks:\n"
        "  generated/leaf/Dockerfile differs\n"
        "  generated/leaf/warmup.py is missing\n"
        "  generated/leaf/extra belongs to no template\n"
        "  generated/gone has no spec\n\n"
        "hint: run `template-builder render` and commit the result"
    )


@pytest.mark.parametrize("inner", ["", "requirements"])
def test_links_in_generated_are_refused(tmp_path: Path, inner: str) -> None:
    """A folder of generated/ that is a link is refused, and nothing behind it is touched."""
    precious = tmp_path / "elsewhere" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("precious")
    link = tmp_path / "generated" / "leaf" / inner
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(precious.parent)
    rendered = one(tmp_path, LEAF)
    with pytest.raises(StorageError, match="is a symbolic link, which template-builder does not"):
        write([rendered], tmp_path / "generated", all_variants=True)
    with pytest.raises(RenderDriftError, match="is a symbolic link"):
        drift([rendered], tmp_path / "generated", all_variants=True)
    assert [path.name for path in precious.parent.iterdir()] == ["thesis.txt"]


def test_link_that_looks_like_an_old_variant_is_left_alone(tmp_path: Path) -> None:
    """A link beside the variants is not ours: it stays, and what it leads to keeps its mode."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    (elsewhere / "template.toml").write_text("")
    generated = tmp_path / "generated"
    generated.mkdir()
    (generated / "old").symlink_to(elsewhere)
    rendered = one(tmp_path, LEAF)
    write([rendered], generated, all_variants=True)
    drift([rendered], generated, all_variants=True)
    assert (generated / "old").is_symlink()
    assert elsewhere.stat().st_mode & 0o777 == 0o755


@pytest.mark.slow
def test_writers_of_generated_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Several processes that render at once all succeed, round after round."""
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "_base.toml").write_text(BASE.replace("    ", ""))
    for name in "abcde":
        text = LEAF.replace("leaf", name)
        (tmp_path / "variants" / f"{name}.toml").write_text(text)
    for number in range(4):
        for path in (tmp_path / "generated").rglob("Dockerfile"):
            path.write_text(str(number))
        running = [
            start_program(["render", "-q", "--project", str(tmp_path)], cwd=ROOT, env=os.environ)
            for _ in range(4)
        ]
        said = [process.communicate()[1] for process in running]
        assert [process.returncode for process in running] == [0] * 4, said


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ("[resources]\ncpu = 4\n", False),
        ("[env]\nA = '1'\n", False),
        ("[[verify]]\nname = 'x'\ncode = '1'\n", False),
        ("# a comment\n", True),
    ],
)
def test_digest_changes_exactly_with_what_is_built(tmp_path: Path, change: str, same: bool) -> None:
    """The digest follows every input that is built or promised, and nothing else."""
    assert (one(tmp_path, LEAF).digest == one(tmp_path, LEAF + change).digest) is same


values = st.text(
    st.characters(blacklist_categories=["Cs"]) | st.sampled_from("\"'\\$`#<\n{}% "), max_size=30
)


def toml(value: str) -> str:
    return json.dumps(value).replace("\x7f", "\\u007f")


@pytest.mark.slow
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(env=values, description=values, stdout=values, argument=values)
def test_no_value_can_add_or_alter_an_instruction(
    env: str,
    description: str,
    stdout: str,
    argument: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Whatever a spec's free text holds, it is refused, or the Dockerfile has the instructions that
    it had, ENV means that text to BuildKit and login shells export that text."""
    leaf = (
        LEAF
        + f"description = {toml(description)}\n[env]\nA = {toml(env.replace('$', '$$'))}\n"
        + f"[service]\ncommand = ['run', {toml(argument)}]\nready-url = 'http://localhost/'\n"
        + f"[[verify]]\nname = 'x'\ncode = 'pass'\nstdout = {toml(stdout)}\n"
    )
    try:
        rendered = one(tmp_path_factory.mktemp("any"), leaf)
    except SpecError:
        return
    parsed = parse_dockerfile_ast(rendered.content("Dockerfile").decode())
    names = [instruction.name.upper() for instruction in parsed.instructions]
    assert " ".join(names) == (
        "FROM USER WORKDIR RUN RUN COPY RUN FROM ENV RUN"
        " FROM COPY USER WORKDIR HEALTHCHECK ENTRYPOINT CMD"
    )
    assert not any(instruction.heredocs for instruction in parsed.instructions)
    variable, shell = parsed.instructions[8:10]
    assert ShellLex("\\", skip_unset_env=False).process_word(variable.args[1]) == env
    assert exported(shell.args[0]) == env
    script = ast.parse(rendered.content("warmup.py").decode())
    constants = {
        statement.targets[0].id: ast.literal_eval(statement.value)  # type: ignore[attr-defined]
        for statement in script.body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.value, ast.List | ast.Constant)
    }
    assert constants["SERVICE"] == ["run", argument]


def exported(command: str) -> str:
    """The line that `printf` writes for login shells, read as such a shell reads it."""
    unset, export = '[ -n "${A+set}" ] || ', "export A="
    (line,) = [word for word in shlex.split(command) if word.startswith(unset + export)]
    return shlex.split(line.removeprefix(unset))[1].removeprefix("A=")


@pytest.mark.parametrize("folder", sorted((ROOT / "generated").iterdir()), ids=lambda f: f.name)
def test_hadolint_finds_nothing(folder: Path) -> None:
    """What we generate has no finding of hadolint but those that its settings explain."""
    found = subprocess.run(
        [
            Path(sys.executable).parent / "hadolint",
            "--config",
            ROOT / ".hadolint.yaml",
            folder / "Dockerfile",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout) == (0, ""), found.stderr
