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


def problems(text: str, **rest: object) -> list[str]:
    with pytest.raises(FlattenError) as caught:
        flatten(text, **rest)  # type: ignore[arg-type]
    return [str(problem) for problem in caught.value.problems]


# Every instruction and flag of the Dockerfile reference: the step, the metadata, or the error.
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
ERRORS = [
    ("RUN --mount=type=cache,target=/x y", "RUN --mount", "E2B has no build mounts: everything that the step needs must be in a layer (COPY the file, or fetch it in the command; remove caches in the same RUN)"),
    ("RUN --network=none y", "RUN --network", "E2B runs every step in the same network (remove the flag)"),
    ("RUN --security=insecure y", "RUN --security", "E2B runs every step with the same privileges (remove the flag)"),
    ("RUN --device=gpu y", "RUN --device", "E2B's build machines have no devices (remove the flag)"),
    ("RUN --nope y", "RUN --nope", "unknown flag"),
    ("RUN", "RUN", "there is no command"),
    ("COPY --from=x a /b", "COPY --from", "E2B builds a single machine: there is no other stage or image to copy from (create the files in this chain of stages, or fetch them in a RUN)"),
    ("COPY --link a /b", "COPY --link", "E2B always copies on top of the layers below (remove the flag)"),
    ("COPY --exclude=x a /b", "COPY --exclude", "E2B would copy the excluded files, too (list the files to copy)"),
    ("COPY --parents a /b", "COPY --parents", "E2B would drop the folders above the file (write the whole target path)"),
    ("COPY --chmod=u+x a /b", "COPY", "E2B only supports octal modes, not `--chmod=u+x` (write an octal mode such as --chmod=0755)"),
    ("COPY */a /b/", "COPY", "E2B expands `*/a` differently from Docker (name the files)"),
    ("COPY [ab].py /b/", "COPY", "E2B expands `[ab].py` differently from Docker (name the files)"),
    ("COPY *.py /b", "COPY", "several files may match `*.py` (end the target in /)"),
    ("COPY ../a /b", "COPY", "`../a` is outside of the build context"),
    ("COPY a", "COPY", "expected at least one source, and a target"),
    ("COPY a b /c", "COPY", "several sources need a target that ends in /"),
    ("COPY a /b$(x)", "COPY", "`/b$(x)` contains characters that E2B's scripts would interpret (use letters, digits and ._+@%~=,:-)"),
    ("ADD https://x/y /b", "ADD", "E2B has no step that fetches a URL (fetch and verify it in a RUN: curl -fsSLo FILE URL && sha256sum -c)"),
    ("ADD git@x:y.git /b", "ADD", "E2B has no step that fetches a URL (fetch and verify it in a RUN: curl -fsSLo FILE URL && sha256sum -c)"),
    ("ADD a.tar /b", "ADD", "Docker unpacks archives, E2B copies them unchanged (use COPY, and unpack archives in a RUN)"),
    ("ONBUILD RUN x", "ONBUILD", "no other Dockerfile is built on a template, and E2B drops the instruction (move the instruction into the stage that needs it)"),
    ("USER 1000", "USER", "E2B runs commands as a named user, in that user's groups, not as `1000` (write USER with a name only, and create the account and its groups in a RUN)"),
    ("USER me:docker", "USER", "E2B runs commands as a named user, in that user's groups, not as `me:docker` (write USER with a name only, and create the account and its groups in a RUN)"),
    ("WORKDIR /a#b", "WORKDIR", "`/a#b` contains characters that E2B's scripts would interpret (use letters, digits and ._+@%~=,:-)"),
    ("SHELL bash", "SHELL", 'expected a list, as in SHELL ["/bin/bash", "-c"]'),
    ("HEALTHCHECK TEST x", "HEALTHCHECK", "expected HEALTHCHECK CMD command, or HEALTHCHECK NONE"),
    ("ENV A-B=1", "ENV", "the shells of E2B's steps cannot set a variable called `A-B` (use a name of letters, digits and _)"),
    ("ARG UID=1", "ARG", "the shells of E2B's steps cannot set a variable called `UID` (use a name of letters, digits and _)"),
    ("ENV A=$NOPE", "ENV", "`$NOPE` is not set in this file, and a step of E2B cannot see the variables of the base image (write the value itself, or declare it: ARG NOPE=…)"),
    ("ENV A=${B!x}", "ENV", "failed to process '${B!x}': unsupported modifier (!) in substitution"),
    ("VOLUME /d\nWORKDIR /d/e", "WORKDIR", "`/d/e` is in the VOLUME of line 2: some Docker builders discard changes to it, E2B keeps them (remove the VOLUME: a sandbox has a single disk)"),
    ("ENV", "ENV", "there is no name and value"),
    ("ARG", "ARG", "there is no name"),
    ("COPY --chown=a --chown=b c d", "COPY", "a flag is given twice (remove one of them)"),
    ("NOPE x", "", "unknown instruction: NOPE"),
    ("RUN " + "x" * 200_000, "RUN", "the command has 200,011 bytes, more than an argument of a process can hold (put it into a file, and COPY that)"),
]  # fmt: skip


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


@pytest.mark.parametrize(("text", "key", "message"), ERRORS)
def test_what_would_be_lost_is_an_error(text: str, key: str, message: str) -> None:
    """Each of these is an error with file, line, instruction and what to write instead."""
    line = 2 + text.count("\n")
    shown = f" `{key}`:" if key else ""
    assert problems(f"FROM x\n{text}") == [f"Dockerfile:{line}:1:{shown} {message}"]


def test_all_problems_at_once() -> None:
    """Every instruction that would be lost is told, in one report under one exit code."""
    with pytest.raises(FlattenError) as caught:
        flatten("FROM --platform=arm64 x\nADD a /b\nONBUILD RUN x", file="generated/x/Dockerfile")
    assert caught.value.exit_code == 14
    assert caught.value.message == (
        "3 problems that E2B would not build as Docker does:\n"
        "generated/x/Dockerfile:1:1: `FROM --platform`: E2B builds for linux/amd64 and ignores a"
        " platform (remove --platform)\n"
        "generated/x/Dockerfile:2:1: `ADD`: Docker unpacks archives, E2B copies them unchanged"
        " (use COPY, and unpack archives in a RUN)\n"
        "generated/x/Dockerfile:3:1: `ONBUILD`: no other Dockerfile is built on a template, and E2B"
        " drops the instruction (move the instruction into the stage that needs it)"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Dockerfile:1:1: there is no FROM instruction"),
        ("RUN x\nFROM y", "Dockerfile:1:1: `RUN`: is before the first FROM"),
        ("FROM scratch", "Dockerfile:1:1: `FROM`: E2B needs a base image with an operating system (write FROM debian:stable-slim, or another image)"),
        ("ARG V\nFROM $V", "Dockerfile:1:1"),
        ("FROM a b c d", "Dockerfile:1:1: `FROM`: expected FROM image, or FROM image AS name"),
        ("FROM x\nRUN <<EOF\na", "Dockerfile:2:1: unterminated heredoc"),
    ],
)  # fmt: skip
def test_chains_that_do_not_begin(text: str, message: str) -> None:
    """A file without an image to start from is an error."""
    if message.endswith(":1"):
        assert problems(text) == [
            "Dockerfile:2:1: `FROM`: `$V` is empty after expansion (give the ARG a default)"
        ]
    else:
        assert problems(text) == [message]


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
    """With the context's files, a folder's content is copied and a file by its name, and what is
    absent, or a pattern that a folder matches, is an error."""
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
    assert problems("FROM x\nCOPY n /n\nCOPY d/* /n/\nCOPY x* /n/", files=files) == [
        "Dockerfile:2:1: `COPY`: `n` is not in the build context",
        "Dockerfile:3:1: `COPY`: `d/*` matches the folder `d/e`: Docker copies its contents, E2B"
        " the folder itself (name the files and the folder)",
        "Dockerfile:4:1: `COPY`: nothing in the build context matches `x*`",
    ]


def test_what_nobody_looked_up_in_the_context_is_said() -> None:
    """Without the context's files, what is copied is taken for files."""
    assert flatten("FROM x\nCOPY a b/ *.py /to/").assumptions[-3:] == (
        "build context: `a` is a file",
        "/to: folders of `b` that exist there have the same owner and mode",
        "build context: no folder matches `*.py`",
    )


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
