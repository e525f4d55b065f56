from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest

from builder.errors import BuildError, VerifyError
from builder.render import Rendered
from builder.spec import Check, Variant, load_variants
from builder.system.events import discard
from builder.system.logs import Log
from builder.targets.local.target import LocalTarget
from builder.verify import verify
from tests.conftest import BASE
from tests.support.here import build_here
from tests.support.sandboxes import prepared

pytestmark = pytest.mark.network

SPEC = "schema = 1\nname = 'light'\nextends = '_base'\n[python]\npackages = ['six==1.16.0']\n"


@dataclass(frozen=True, kw_only=True)
class Promised:
    """What a build is to be, made up."""

    variant: Variant
    locked: Mapping[str, str]
    reseeds: bool = False
    runs_code: bool = True
    loading_checks: Sequence[Check] = ()


Verified = Callable[..., None]


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    folder = tmp_path_factory.mktemp("light")
    (folder / "variants").mkdir()
    (folder / "variants" / "_base.toml").write_text(dedent(BASE))
    (folder / "variants" / "light.toml").write_text(SPEC)
    return prepared(folder)


@pytest.fixture
def verified(light: Rendered, write: Callable[..., Path], local_cache: Path, log: Log) -> Verified:
    """Return a function that verifies a build with checks, and with a version of `six`."""
    built = build_here(light, log)

    def run(checks: Mapping[str, str], *, six: str = "1.16.0") -> None:
        blocks = (f"[[verify]]\nname = '{name}'\n{block}\n" for name, block in checks.items())
        (variant,) = load_variants(write(_base=BASE, light=SPEC + "".join(blocks)))
        promised = Promised(variant=variant, locked={"six": six})
        verify(built, promised, LocalTarget(), report=discard, log=log)

    return run


def message_of(error: VerifyError) -> str:
    # Python 3.13 marks the place within a line.
    message = re.sub(r"\n[ ~^]+(?=\n|$)", "", error.message)
    assert "ipykernel" not in message.lower()
    return message


@pytest.mark.slow
def test_failed_check_says_what_was_expected_and_found(verified: Verified) -> None:
    """A build that does not hold up fails with each check, what it should give and what it gave."""
    checks = {
        "sum": "code = 'print(4)'\nstdout = '5'",
        "import": "code = 'import absent'",
        "endless": "code = 'while True: pass'\nstdout = 'x'\ntimeout = 1",
        "half": 'code = "def half(x):\\n    return x / 0\\n\\nhalf(1)"',
    }
    with pytest.raises(VerifyError) as caught:
        verified(checks)
    assert message_of(caught.value).startswith(
        "`light` was built on `local` but failed verification:\n"
        "  variants/light.toml:7: check `sum` failed: expected '5', got '4'\n"
        "  variants/light.toml:11: check `import` failed:"
        " ModuleNotFoundError: No module named 'absent'\n"
        '      File "import", line 1, in <module>\n'
        "        import absent\n"
        "  variants/light.toml:14: check `endless` failed: it did not finish within 1 second\n"
        "  variants/light.toml:19: check `half` failed: ZeroDivisionError: division by zero\n"
        '      File "half", line 4, in <module>\n'
        "        half(1)\n"
        '      File "half", line 2, in half\n'
        "        return x / 0"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "cause"),
    [
        ("os._exit(3)", "the code ended its interpreter with exit status 3"),
        (
            "os.kill(os.getpid(), 9)",
            "the interpreter was ended by SIGKILL while it ran the code; memory did not run out, so"
            " the code or another program killed it",
        ),
        ("os.abort()", "the interpreter was ended by SIGABRT while it ran the code"),
    ],
)
def test_checks_after_an_end_of_the_sandbox_are_named(
    verified: Verified, end: str, cause: str
) -> None:
    """Where a check ends the sandbox, its failure says how, and the checks after it are said not to
    have run, not to have failed."""
    checks = {
        "dies": f"code = 'import os; {end}'",
        "next": "code = 'print(1)'",
        "last": "code = 'print(2)'",
    }
    with pytest.raises(VerifyError) as caught:
        verified(checks)
    assert message_of(caught.value) == (
        "`light` was built on `local` but failed verification:\n"
        f"  variants/light.toml:7: check `dies` failed: {cause}\n"
        "  not checked, because the sandbox had ended: `next`, `last`"
    )


@pytest.mark.slow
def test_locked_package_in_another_version_is_named(verified: Verified) -> None:
    """A locked package that is there in another version than in any that was locked for it is
    named with both."""
    verified({}, six="1.16 | 1.17.0")
    with pytest.raises(VerifyError) as caught:
        verified({}, six="1.15 | 1.17.0")
    assert "  `six` is installed in version 1.16.0 instead of 1.15 | 1.17.0" in caught.value.message


@pytest.mark.slow
def test_checks_do_not_see_each_other(verified: Verified) -> None:
    """A check cannot pass on a name that the check before it has left."""
    with pytest.raises(VerifyError, match="failed: NameError: name 'left' is not defined"):
        verified({"first": "code = 'left = 1'", "second": "code = 'print(left)'"})


@pytest.mark.slow
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
