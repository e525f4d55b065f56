from __future__ import annotations

import pytest

from builder.errors import FlattenError
from builder.flatten import flatten


def problems(text: str, **rest: object) -> list[str]:
    with pytest.raises(FlattenError) as caught:
        flatten(text, **rest)  # type: ignore[arg-type]
    return [str(problem) for problem in caught.value.problems]


# Every instruction and flag of the Dockerfile reference that would be lost.
ERRORS = [
    ("RUN --mount=type=cache,target=/x y", "RUN --mount", "E2B has no build mounts: everything that the step needs must be in a layer (remove the flag, and remove the cache in the same RUN)"),
    ("RUN --mount=target=/x y", "RUN --mount", "E2B has no build mounts: everything that the step needs must be in a layer (COPY the files, or fetch them in the command)"),
    ("RUN --mount=type=tmpfs,target=/x y", "RUN --mount", "E2B has no build mounts: everything that the step needs must be in a layer (remove the flag, and remove temporary files in the same RUN)"),
    ("RUN --mount=type=secret,id=t cat /run/secrets/t", "RUN --mount", "a build on E2B has no secrets: the template keeps all that its steps see (fetch what needs it before the build; give secrets to sandboxes when you create them)"),
    ("RUN --mount=type=ssh y", "RUN --mount", "a build on E2B has no secrets: the template keeps all that its steps see (fetch what needs it before the build; give secrets to sandboxes when you create them)"),
    ("RUN --mount=type=nope y", "RUN --mount", "there is no mount of type `nope`"),
    ("RUN --mount=type=cache,target=/a --mount=type=cache,target=/b y", "RUN --mount", "E2B has no build mounts: everything that the step needs must be in a layer (remove the flag, and remove the cache in the same RUN)"),
    ("RUN --device=a --device=b y", "RUN --device", "E2B's build machines have no devices (remove the flag)"),
    ("COPY --exclude=x --exclude=y a /b", "COPY --exclude", "E2B would copy the excluded files, too (list the files to copy)"),
    ("COPY --chown a /b", "COPY --chown", "the flag needs a value (--chown=…)"),
    ("HEALTHCHECK --nope CMD x", "HEALTHCHECK --nope", "unknown flag"),
    ("USER", "USER", "there is no name"),
    ('WORKDIR ""', "WORKDIR", "there is no path"),
    ("RUN --network=none y", "RUN --network", "E2B runs every step in the same network (remove the flag; in a spec, remove `network = false`)"),
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


@pytest.mark.parametrize(("text", "key", "message"), ERRORS)
def test_what_would_be_lost_is_an_error(text: str, key: str, message: str) -> None:
    """Each of these is an error with file, line, instruction and what to write instead."""
    line = 2 + text.count("\n")
    shown = f" `{key}`:" if key else ""
    assert problems(f"FROM x\n{text}") == [f"Dockerfile:{line}:1:{shown} {message}"]


@pytest.mark.parametrize(
    "instruction",
    [
        "USER ${WHO}", "USER me:${WHO}", "WORKDIR $WHO", "WORKDIR ${WHO}/${WHO}", "ENV $WHO=1",
        "ENV A=$WHO B=$WHO", "ARG $WHO", "ARG A=$WHO", "VOLUME $WHO", "COPY --chown=$WHO a /b",
        "COPY --chmod=${WHO} a /b", "COPY $WHO /b", "COPY a $WHO", "COPY $WHO ${WHO} $WHO/",
        "COPY <<F /b\n$WHO\nF",
    ],
)  # fmt: skip
def test_unknown_variable_is_one_problem(instruction: str) -> None:
    """A variable that is not set is reported once, without problems that only follow from it."""
    name = instruction.partition(" ")[0]
    assert problems(f"FROM x\nARG X=1\n{instruction}\nRUN a\nCOPY b c$X") == [
        f"Dockerfile:3:1: `{name}`: `$WHO` is not set in this file, and a step of E2B cannot see the"
        " variables of the base image (write the value itself, or declare it: ARG WHO=…)"
    ]


def test_other_problems_of_the_instruction_are_reported_too() -> None:
    """A variable that is not set hides no mistake that has nothing to do with it."""
    assert problems("FROM x\nCOPY --chown=$A --chmod=u+x ../a /b\nRUN --mount=type=secret x") == [
        "Dockerfile:2:1: `COPY`: `$A` is not set in this file, and a step of E2B cannot see the"
        " variables of the base image (write the value itself, or declare it: ARG A=…)",
        "Dockerfile:2:1: `COPY`: E2B only supports octal modes, not `--chmod=u+x` (write an octal"
        " mode such as --chmod=0755)",
        "Dockerfile:2:1: `COPY`: `../a` is outside of the build context",
        "Dockerfile:3:1: `RUN --mount`: a build on E2B has no secrets: the template keeps all that"
        " its steps see (fetch what needs it before the build; give secrets to sandboxes when you"
        " create them)",
    ]


def test_all_problems_at_once() -> None:
    """Every instruction that would be lost is told, in one report under one exit code."""
    with pytest.raises(FlattenError) as caught:
        flatten("FROM --platform=arm64 x\nADD a /b\nONBUILD RUN x", file="generated/x/Dockerfile")
    assert caught.value.exit_code == 14
    assert caught.value.message == (
        "3 problems that E2B would not build as Docker does:\n"
        "generated/x/Dockerfile:1:1: `FROM --platform`: E2B's machines are linux/amd64, not arm64"
        " (remove --platform, or write --platform=linux/amd64)\n"
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
        ("ARG V\nFROM x:$V", "Dockerfile:2:1: `FROM`: `x:$V` is `x:`, which is no image, after expansion (give the ARG a default)"),
        ("FROM --nope x", "Dockerfile:1:1: `FROM --nope`: unknown flag"),
        ("FROM ${A!x}", "Dockerfile:1:1: `FROM`: failed to process '${A!x}': unsupported modifier (!) in substitution"),
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


def test_sources_that_are_not_in_the_context_are_errors() -> None:
    """With the context's files, what is absent, or a pattern that a folder matches, is an error."""
    files = ["d/a", "d/e/b", "f"]
    assert problems("FROM x\nCOPY n /n\nCOPY d/* /n/\nCOPY x* /n/", files=files) == [
        "Dockerfile:2:1: `COPY`: `n` is not in the build context",
        "Dockerfile:3:1: `COPY`: `d/*` matches the folder `d/e`: Docker copies its contents, E2B"
        " the folder itself (name the files and the folder)",
        "Dockerfile:4:1: `COPY`: nothing in the build context matches `x*`",
    ]
