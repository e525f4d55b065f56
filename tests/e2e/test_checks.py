from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.errors import (
    BuildError,
    VerifyError,
)
from builder.spec import Variant
from builder.system.events import discard
from builder.system.logs import Log
from builder.targets.local.target import LocalTarget
from builder.verify import verify
from tests.conftest import BASE
from tests.support.here import build_here
from tests.support.sandboxes import prepared


@pytest.mark.network
def test_checks_after_an_end_of_the_sandbox_are_named(
    write: Callable[..., Path], local_cache: Path, tmp_path: Path
) -> None:
    """Where a check ends the sandbox, those after it are said not to have run, not to have failed."""
    blocks = (("dies", "import os; os._exit(3)"), ("next", "print(1)"), ("last", "print(2)"))
    folder = write(
        _base=BASE,
        light="schema = 1\nname = 'light'\nextends = '_base'\n"
        + "".join(f"[[verify]]\nname = '{name}'\ncode = '{code}'\n" for name, code in blocks),
    )
    rendered = prepared(folder.parent)
    with (
        Log(tmp_path / "logs", target="local") as log,
        pytest.raises(VerifyError) as caught,
    ):
        built = build_here(rendered, log)
        verify(built, rendered, LocalTarget(), report=discard, log=log)
    assert (
        "  variants/light.toml:5: check `dies` failed: the code ended its interpreter with exit"
        " status 3\n  not checked, because the sandbox had ended: `next`, `last`\n"
        in f"{caught.value.message}\n"
    )


@dataclass(frozen=True, kw_only=True)
class Promised:
    """What a build is to be, made up."""

    variant: Variant
    locked: Mapping[str, str]
    reseeds: bool = False


@pytest.mark.network
def test_locked_package_in_another_version_is_named(
    write: Callable[..., Path], local_cache: Path, tmp_path: Path
) -> None:
    """A locked package that is there in another version than in any that was locked for it is
    named with both."""
    folder = write(
        _base=BASE,
        light="schema = 1\nname = 'light'\nextends = '_base'\n[python]\npackages = ['six==1.16.0']\n",
    )
    rendered = prepared(folder.parent)
    with Log(tmp_path / "logs", target="local") as log:
        built = build_here(rendered, log)

        def verified(locked: str) -> None:
            promised = Promised(variant=rendered.variant, locked={"six": locked})
            verify(built, promised, LocalTarget(), report=discard, log=log)

        verified("1.16 | 1.17.0")
        with pytest.raises(VerifyError) as caught:
            verified("1.15 | 1.17.0")
    assert "  `six` is installed in version 1.16.0 instead of 1.15 | 1.17.0" in caught.value.message


@pytest.mark.parametrize(
    ("block", "failure"),
    [
        (
            "code = 'print(4)'\nstdout = '5'",
            "variants/light.toml:7: check `odd` failed: expected '5', got '4'",
        ),
        (
            "code = 'import absent'",
            "variants/light.toml:7: check `odd` failed:"
            " ModuleNotFoundError: No module named 'absent'\n"
            '      File "odd", line 1, in <module>\n'
            "        import absent",
        ),
        (
            "code = 'while True: pass'\nstdout = 'x'\ntimeout = 1",
            "variants/light.toml:7: check `odd` failed: it did not finish within 1 second",
        ),
        (
            "code = 'import os; os._exit(3)'",
            "variants/light.toml:7: check `odd` failed:"
            " the code ended its interpreter with exit status 3",
        ),
        (
            "code = 'import os; os.kill(os.getpid(), 9)'",
            "variants/light.toml:7: check `odd` failed: the interpreter was ended by SIGKILL while"
            " it ran the code, as when memory runs out",
        ),
        (
            "code = 'import os; os.abort()'",
            "variants/light.toml:7: check `odd` failed: the interpreter was ended by SIGABRT while"
            " it ran the code",
        ),
        (
            "code = 'def half(x):\\n    return x / 0\\n\\nhalf(1)'".replace("'", '"'),
            "variants/light.toml:7: check `odd` failed: ZeroDivisionError: division by zero\n"
            '      File "odd", line 4, in <module>\n'
            "        half(1)\n"
            '      File "odd", line 2, in half\n'
            "        return x / 0",
        ),
        (
            "code = 'print(1'",
            "variants/light.toml:7: check `odd` failed: SyntaxError: '(' was never closed",
        ),
    ],
)
def test_failed_check_says_what_was_expected_and_found(
    write: Callable[..., Path], local_cache: Path, log: Log, block: str, failure: str
) -> None:
    """A build that does not hold up fails with the check, what it should give and what it gave."""
    folder = write(
        _base=BASE,
        light="schema = 1\nname = 'light'\nextends = '_base'\n[python]\npackages = ['idna']\n"
        f"[[verify]]\nname = 'odd'\n{block}\n",
    )
    rendered = prepared(folder.parent)
    built = build_here(rendered, log)
    with pytest.raises(VerifyError) as caught:
        verify(built, rendered, LocalTarget(), report=discard, log=log)
    # Python 3.13 marks the place within a line.
    message = re.sub(r"\n[ ~^]+(?=\n|$)", "", caught.value.message)
    assert message.startswith(f"`light` was built on `local` but failed verification:\n  {failure}")
    assert "ipykernel" not in caught.value.message.lower()


def test_checks_do_not_see_each_other(
    write: Callable[..., Path], local_cache: Path, log: Log
) -> None:
    """A check cannot pass on a name that the check before it has left."""
    folder = write(
        _base=BASE,
        light="schema = 1\nname = 'light'\nextends = '_base'\n"
        "[[verify]]\nname = 'first'\ncode = 'left = 1'\n"
        "[[verify]]\nname = 'second'\ncode = 'print(left)'\n",
    )
    rendered = prepared(folder.parent)
    built = build_here(rendered, log)
    with pytest.raises(VerifyError, match="failed: NameError: name 'left' is not defined"):
        verify(built, rendered, LocalTarget(), report=discard, log=log)


def test_warm_up_import_that_is_missing_fails_the_build(
    write: Callable[..., Path], local_cache: Path, log: Log
) -> None:
    """A warm-up import that no package brings fails the build, says which, and leaves nothing."""
    folder = write(
        _base=BASE,
        light="schema = 1\nname = 'light'\nextends = '_base'\n"
        "[warmup]\nlevel = 'disk'\nimports = ['absent_module']\n",
    )
    rendered = prepared(folder.parent)
    with pytest.raises(BuildError) as caught:
        build_here(rendered, log)
    assert caught.value.message == (
        "the warm-up imports fail in the new environment:\n"
        "ModuleNotFoundError: No module named 'absent_module'"
    )
    assert caught.value.hint == "correct `warmup.imports`, or add the missing package"
    assert not list((local_cache / "environments").glob(f"*{rendered.digest.partition(':')[2]}*"))
