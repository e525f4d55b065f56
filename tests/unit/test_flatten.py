from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from builder.errors import FlattenError
from builder.flatten import BaseConfig, Program, Step, flatten, shell
from tests.conftest import ROOT
from tests.support.e2b_server.steps import evaluation

KNOWN = BaseConfig(env={"PATH": "/bin"}, entrypoint=("/entry",), command=("base",))


def commands(text: str, base: BaseConfig | None = None) -> list[tuple[str, ...]]:
    """The steps of a Dockerfile's text: their kinds and arguments."""
    return [(step.kind, *step.args) for step in flatten(text, base=base).steps]


# Every instruction and flag of the Dockerfile reference that is kept: the step, or the metadata.
KEPT = [
    ("RUN true", "RUN: cd / && \\\n/bin/sh -c true"),
    ('RUN ["echo", "a b"]', "RUN: cd / && \\\necho 'a b'"),
    ("RUN <<EOF\necho a\necho b\nEOF", "RUN: cd / && \\\n/bin/sh -c 'echo a\necho b\n'"),
    ("RUN cat <<EOF > /x\n$HOME\nEOF", "RUN: cd / && \\\n/bin/sh -c 'cat <<EOF > /x\n$HOME\nEOF'"),
    ("RUN --network=default true", "RUN: cd / && \\\n/bin/sh -c true"),
    ("RUN --security=sandbox true", "RUN: cd / && \\\n/bin/sh -c true"),
    ('SHELL ["/bin/bash", "-c"]\nRUN a', "RUN: cd / && \\\n/bin/bash -c a"),
    ("WORKDIR /a\nRUN b", "RUN: mkdir -p /a && \\\ncd /a && \\\n/bin/sh -c b"),
    ("ARG X=1\nRUN b", "RUN: export X=1 && \\\ncd / && \\\n/bin/sh -c b"),
    ("COPY a /b", "COPY: a /b root:root "),
    ("COPY a /b/", "COPY: a /b/a root:root "),
    ('COPY ["a", "/b c"]', "COPY: a /b c root:root "),
    ("COPY --chmod=755 a /b", "COPY: a /b root:root 0755"),
    ("COPY --chown=0:0 a /b", "COPY: a /b 0:0 "),
    ("COPY . /b", "COPY: . /b root:root "),
    ("COPY d/ /b/", "COPY: d /b root:root "),
    ("COPY *.py d/?.txt /b/", "COPY: *.py /b root:root "),
    ("COPY --chown=me d/ /b/c", "COPY: d /b/c me:me "),
    ("COPY --link=false a /b", "COPY: a /b root:root "),
    ("ENV A=1 B=2\nENV C=$A", "ENV: A 1 B 2 C 1"),
    ("ENV A it is", "ENV: A it is"),
    ("WORKDIR /a%\nWORKDIR b", "WORKDIR: /a%/b"),
    ("USER root", "USER: root"),
    ("USER root\nWORKDIR /home/user", "WORKDIR: /home/user"),
    ("ENV A=\\$B", "ENV: A ${0:+$}B"),
]
META = [
    ("LABEL a=b", "LABEL: labels are not part of a sandbox"),
    ("MAINTAINER me", "MAINTAINER: an author is not part of a sandbox"),
    ("EXPOSE 80", "EXPOSE: every port of a sandbox can be reached"),
    ("STOPSIGNAL TERM", "STOPSIGNAL: a sandbox is stopped as a machine, not with a signal"),
    ("VOLUME /data", "VOLUME: a sandbox has a single disk of its own"),
    (
        "HEALTHCHECK --interval=5s CMD true",
        "HEALTHCHECK: --interval=5s: E2B checks every 2 seconds, for at most 10 minutes",
    ),
]


@pytest.mark.parametrize(("text", "step"), KEPT)
def test_what_is_kept(text: str, step: str) -> None:
    """Each of these is a step, and this one."""
    found = flatten(f"FROM x\n{text}")
    told = [f"{one.kind}: {' '.join(one.args)}" for one in found.steps]
    assert step in {line.removesuffix(" root") if "RUN" in line else line for line in told}


@pytest.mark.parametrize(("text", "listed"), META)
def test_what_is_metadata(text: str, listed: str) -> None:
    """Each of these makes no step, and is listed with the reason."""
    found = flatten(f"FROM x\nUSER user\nWORKDIR /home/user\n{text}")
    assert found.steps == ()
    assert [str(one) for one in found.metadata] == [f"line 4: {listed}"]


@pytest.mark.parametrize("platform", ["linux/amd64", "$BUILDPLATFORM", "linux/x86_64", "AMD64"])
def test_platform_of_e2b_changes_nothing(platform: str) -> None:
    """FROM may name the platform that E2B builds for."""
    assert flatten(f"FROM --platform={platform} x\nRUN a") == flatten("FROM x\nRUN a")


def test_stages_are_inlined_in_order_and_strangers_dropped() -> None:
    """The chain of the last stage is what is built; what stands beside it is not looked at."""
    text = "FROM x AS a\nRUN 1\nFROM y AS beside\nADD z /\nFROM A AS b\nRUN 2\nFROM b\nRUN 3"
    found = flatten(text)
    assert found.base_image == "x"
    assert [step.stage for step in found.steps if step.kind == "RUN"] == ["a", "b", "3"]


def test_arguments_reach_from_and_run_and_nothing_else() -> None:
    """ARGs are expanded by Docker's rules, given to RUN, and never part of the sandbox."""
    text = "ARG V=1\nARG W=w\nFROM x:$V\nARG W\nARG U=u\nARG N\nENV E=$W$U$N\nRUN a"
    found = flatten(text, arguments={"U": "given"})
    assert found.base_image == "x:1"
    assert found.env == {"E": "wgiven"}
    assert found.steps[0].args[0].startswith("export W=w U=given E=wgiven && \\\n")


def test_later_one_of_env_and_arg_wins() -> None:
    """An ARG hides the ENV of its name until the end of its stage, as BuildKit has it."""
    text = "FROM x AS a\nENV A=env\nARG A=arg\nARG Z=zed\nENV B=$A\nFROM a\nENV C=$A D=$Z"
    assert flatten(text).env == {"A": "env", "B": "arg", "C": "env", "D": "zed"}


def test_platform_arguments_are_those_of_e2b() -> None:
    """TARGETARCH and its kin are known to FROM, and to a stage that declares them."""
    text = "FROM x-$TARGETARCH\nARG TARGETOS\nENV A=$TARGETOS B=$HTTP_PROXY"
    found = flatten(text)
    assert (found.base_image, found.env) == ("x-amd64", {"A": "linux", "B": ""})


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ('CMD ["a", "b c"]', "exec a 'b c'"),
        ("CMD a $B", "exec /bin/sh -c 'a $B'"),
        ('SHELL ["/bin/bash", "-c"]\nCMD a', "exec /bin/bash -c a"),
        ('ENTRYPOINT ["a"]\nCMD ["b"]', "exec a b"),
        ('ENTRYPOINT ["a"]\nCMD b c', "exec a /bin/sh -c 'b c'"),
        ('ENTRYPOINT a\nCMD ["b"]', "exec /bin/sh -c a"),
        ('CMD ["b"]\nENTRYPOINT ["a"]', "exec a b"),
        ('CMD ["b"]\nFROM one\nENTRYPOINT ["a"]', "exec a"),
        ('ENTRYPOINT ["a"]\nFROM one\nENTRYPOINT []\nCMD ["b"]', "exec b"),
        ("ENTRYPOINT []\nCMD []", None),
        ('ENV A="x y"\nENTRYPOINT []\nCMD ["a"]', "export A='x y' && exec a"),
    ],
)
def test_what_a_sandbox_starts(text: str, command: str | None) -> None:
    """ENTRYPOINT and CMD combine as Docker combines them."""
    assert flatten(f"FROM x AS one\n{text}").start_command == command


def test_start_of_the_base_image() -> None:
    """Where the file says nothing, the base image's own command is started."""
    assert flatten("FROM x", base=KNOWN).start_command == "export PATH=/bin && exec /entry base"


def test_ready_command() -> None:
    """HEALTHCHECK CMD says when a sandbox is ready, in its shell or its exec form."""
    assert flatten("FROM x\nHEALTHCHECK CMD a b").ready_command == "exec /bin/sh -c 'a b'"
    assert flatten('FROM x\nHEALTHCHECK CMD ["a b"]').ready_command == "exec 'a b'"
    assert flatten("FROM x\nHEALTHCHECK CMD a\nHEALTHCHECK NONE").ready_command is None


def test_fewest_steps() -> None:
    """RUNs of a stage are one step, ENVs are one, and users and folders need none of their own."""
    text = (
        "FROM x\nUSER root\nENV A=1\nRUN a\nENV B=2\nWORKDIR /w\nRUN b\nCOPY f /f\nRUN c\n"
        "USER user\nWORKDIR /home/user"
    )
    found = flatten(text)
    assert [step.kind for step in found.steps] == ["RUN", "COPY", "RUN", "ENV"]
    assert (found.steps_before, len(found.steps)) == (10, 4)
    assert found.steps[0].args == (
        "export A=1 && \\\ncd / && \\\n/bin/sh -c a && \\\nmkdir -p /w && \\\n"
        "export B=2 && \\\ncd /w && \\\n/bin/sh -c b",
        "root",
    )


def test_account_without_a_home_runs_commands() -> None:
    """A step of E2B begins in the home of its account, unless a WORKDIR says otherwise: one is sent
    before the first command of an account that may have none."""
    found = flatten("FROM x\nRUN a\nUSER me\nRUN b\nUSER user\nWORKDIR /home/user\nRUN c")
    assert [step.args[-1] for step in found.steps] == ["root", "/", "me", "user", "/home/user"]
    assert [step.kind for step in found.steps] == ["RUN", "WORKDIR", "RUN", "RUN", "WORKDIR"]


def test_steps_of_a_shared_stage_are_the_same_bytes() -> None:
    """Whatever stands behind it, a stage comes out the same."""
    shared = "FROM x AS shared\nUSER root\nENV A=1\nRUN a\nCOPY f /f\nRUN b\n"
    one = flatten(f"# a comment\n{shared}FROM shared\nRUN c")
    other = flatten(f"{shared}FROM shared\nENV B=2\nRUN d\nWORKDIR /x")
    assert one.steps[:3] == other.steps[:3]
    assert [step.stage for step in one.steps[:3]] == ["shared"] * 3


def test_what_nobody_looked_into_is_said() -> None:
    """What is assumed: a base image is listed; what was looked up is not."""
    text = "FROM x\nRUN a"
    assert flatten(text).assumptions == (
        "x: its user is root",
        "x: its working directory is /",
        "x: it has no ENTRYPOINT (set ENTRYPOINT [] to be sure)",
        "x: it starts nothing (set CMD to be sure)",
    )
    assert flatten(text, base=KNOWN).assumptions == ()
    assert flatten("FROM x\nENV A=$PATH:/b", base=KNOWN).env == {"PATH": "/bin", "A": "/bin:/b"}


def test_context_tells_files_from_folders() -> None:
    """With the context's files, a folder's content is copied and a file by its name."""
    files = ["d/a", "d/e/b", "f"]
    found = flatten("FROM x\nCOPY --chown=me d /to/\nCOPY f /to/\nCOPY d/e/* /to/", files=files)
    assert [step.args[:2] for step in found.steps if step.kind == "COPY"] == [
        ("d", "/to"),
        ("f", "/to/f"),
        ("d/e/*", "/to"),
    ]
    assert found.assumptions[-1] == (
        "/to: folders of `d` that exist there have the same owner and mode"
    )
    assert "path=/to;" in found.steps[0].args[0]


def test_what_nobody_looked_up_in_the_context_is_said() -> None:
    """Without the context's files, what is copied is taken for files."""
    assert flatten("FROM x\nCOPY a b/ *.py /to/").assumptions[-3:] == (
        "build context: `a` is a file",
        "/to: folders of `b` that exist there have the same owner and mode",
        "build context: no folder matches `*.py`",
    )
    assert "build context: `api` is a file" in flatten("FROM x\nCOPY api /api").assumptions


def test_heredoc_files_are_written_as_root() -> None:
    """COPY of a here-document is a command that writes it, expanded unless its name is quoted."""
    text = "FROM x\nUSER me\nENV A=1\nCOPY <<F <<'G' /d/\n$A\nF\n$A\nG\n"
    command, user = flatten(text).steps[0].args
    assert user == "root"
    assert "printf '%s' '1\n' > " in command
    assert "printf '%s' '$A\n' > " in command


@pytest.mark.parametrize(
    "lists",
    ["[" * 3000, "[" * 101, '["]",' * 101, "[" * 51 + "\\\n# [\n\n" + "[" * 50],
)
def test_lists_without_end_are_refused(lists: str) -> None:
    """Words nested deeper than a limit of our own are an error with their line."""
    with pytest.raises(FlattenError) as caught:
        flatten(f'FROM a\nRUN x\nCMD {lists}"a"\nRUN y\n')
    (problem,) = caught.value.problems
    assert (problem.line, problem.message) == (3, "lists are nested deeper than 100 levels")


def test_brackets_that_are_no_lists_are_kept() -> None:
    """Brackets in strings, and those of several instructions, are not nested."""
    command = f"printf '%s' \"{'[' * 200}\" && [ -f x ]"
    flatten("FROM a\n" + f"RUN {command}\nRUN [ -d y\n" * 200)


@given(value=st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=40))
@example(value='$HOME ${HOME} $(id) `id` \\$HOME \\\\ "$0" %s%% $ $$ $1 -n')
def test_env_values_survive_their_evaluation(value: str) -> None:
    """What E2B evaluates in a shell is what the Dockerfile said, to the character."""
    evaluated = subprocess.run(
        ["bash", "-c", evaluation(shell.env_literal(value))],
        capture_output=True,
        check=True,
        env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
    )
    assert evaluated.stdout.decode() == value


@given(value=st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=40))
def test_no_value_changes_what_is_run(value: str) -> None:
    """Whatever a variable holds, the shell that runs a step sees it as that value."""
    program = flatten('FROM x\nUSER root\nRUN printf %s "$A"', base=BaseConfig(env={"A": value}))
    command = program.steps[0].args[0]
    found = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    assert found.stdout.decode() == value


@given(text=st.text(max_size=200))
def test_any_text_is_a_program_or_a_report(text: str) -> None:
    """Whatever a Dockerfile holds, it ends in a program or in a FlattenError."""
    with contextlib.suppress(FlattenError):
        assert isinstance(flatten(f"FROM x\n{text}"), Program)


@pytest.mark.parametrize("folder", sorted((ROOT / "generated").iterdir()), ids=lambda f: f.name)
def test_what_we_generate_flattens(folder: Path) -> None:
    """The four templates lose nothing, assume nothing, and begin with the same steps."""
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    found = flatten((folder / "Dockerfile").read_text(), files=files)
    assert found.assumptions == ()
    assert found.ready_command
    assert found.start_command
    data = flatten((ROOT / "generated" / "tta-data-minimal" / "Dockerfile").read_text())
    assert found.steps[:3] == data.steps[:3]
    assert all(isinstance(step, Step) for step in found.steps)
