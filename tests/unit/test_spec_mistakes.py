from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from builder.spec import load_variants, place_of
from builder.spec.models import VariantFile
from tests.support.samples import problems

Write = Callable[..., Path]
KEYS = sorted(field.alias or name for name, field in VariantFile.model_fields.items())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("schema = 2", "1:1: `schema`: 2 is not supported; this version reads schema 1"),
        ("description = 'x'", "`schema`: is missing (add `schema = 1`)"),
        ("schema = 1\nname =", "2:7: is not valid TOML: Invalid value"),
        ("schema = 1\nschema = 1", "2:11: is not valid TOML: Cannot overwrite a value"),
        ("schema = 1\nbase = 3", "2:1: `base`: expected a table, found 3"),
        ("schema = 1\nenv = []", "2:1: `env`: expected a table, found []"),
        ("schema = 1\nverify = {}", "2:1: `verify`: expected a list, found {}"),
        ("schema = 1\n[env]\nA = 3", "3:1: `env.A`: expected a string, found 3"),
        (
            "schema = 1\n[env]\n'A B' = ''",
            "3:1: `env.\"A B\"`: 'A B' is not the name of an environment variable",
        ),
        ("schema = 1\n[env]\nA = 'a\\nb'", None),
        (
            'schema = 1\n[env]\nA = "a\\nb"',
            "3:1: `env.A`: must be one line of text without control characters, but contains '\\n'",
        ),
        (
            'schema = 1\n[env]\nA = "a\\u2028b"',
            "3:1: `env.A`: must be one line of text without control characters, but contains '\\u2028'",
        ),
        (
            "schema = 1\n[env]\nAPI_TOKEN = 'x'",
            "3:1: `env.API_TOKEN`: is named like a secret; everyone who can use a template can"
            " read its content. Pass secrets to a sandbox when you open it",
        ),
        (
            "schema = 1\n[env]\nA = 'hf_abcdefghijklmnopqrstuv'",
            "3:1: `env.A`: contains a Hugging Face token; everyone who can use a template can"
            " read its content. Pass secrets to a sandbox when you open it",
        ),
        (
            "schema = 1\n[system]\npackages = ['git curl']",
            "3:13: `system.packages[0]`: 'git curl' is not the name of a Debian package",
        ),
        (
            "schema = 1\n[system]\npackages = ['--yes']",
            "3:13: `system.packages[0]`: '--yes' is not the name of a Debian package",
        ),
        (
            "schema = 1\n[python]\npackages = ['a @ https://x/a.whl']",
            "3:13: `python.packages[0]`: 'a @ https://x/a.whl' has no hash: append `#sha256=` and 64"
            " digits",
        ),
        *(
            (
                f"schema = 1\n[python]\npackages = ['a @ {address}']",
                f"3:13: `python.packages[0]`: {reason}",
            )
            for address, reason in (
                (
                    "git+https://x/a@main",
                    "'a @ git+https://x/a@main' names no commit: write `git+https://…@` and the 40"
                    " digits of a commit, since a branch or a tag may change",
                ),
                (
                    f"git+ssh://git@x/a@{'0' * 40}",
                    f"'a @ git+ssh://git@x/a@{'0' * 40}' names no commit: write `git+https://…@` and"
                    " the 40 digits of a commit, since a branch or a tag may change",
                ),
                (
                    f"git+https://token@x/a@{'0' * 40}",
                    "the URL contains a user name or password, which must not be in a template",
                ),
                (
                    f"https://me@x/a-1-py3-none-any.whl#sha256={'0' * 64}",
                    "the URL contains a user name or password, which must not be in a template",
                ),
                (
                    f"https://x/$(id)#sha256={'0' * 64}",
                    f"'https://x/$(id)#sha256={'0' * 64}' is not an http or https URL",
                ),
                (
                    f"https://x/a.exe#sha256={'0' * 64}",
                    f"'a @ https://x/a.exe#sha256={'0' * 64}' names neither a wheel nor a `.tar.gz` or"
                    " `.zip` of sources",
                ),
                (
                    f"https://x/b-1-py3-none-any.whl#sha256={'0' * 64}",
                    "'b-1-py3-none-any.whl' is a wheel of 'b', not of 'a'",
                ),
                ("file:///x", "'file:///x' is not a path inside the variants folder"),
                (
                    "../a-1-py3-none-any.whl",
                    "'../a-1-py3-none-any.whl' is not a path inside the variants folder",
                ),
                ("a.tar.gz", "'a.tar.gz' is not a wheel: its name must end in `.whl`"),
                (
                    "a.whl",
                    "'a.whl' is not the name of a wheel, such as `name-1.0-py3-none-any.whl`",
                ),
            )
        ),
        (
            "schema = 1\n[python]\ntorch-backend = 'gpu'",
            "3:1: `python.torch-backend`: 'gpu' is not a PyTorch backend",
        ),
        (
            "schema = 1\n[base]\nimage = 'a b'",
            "3:1: `base.image`: 'a b' is not an image reference such as 'python:3.13'",
        ),
        (
            "schema = 1\n[base]\npython = '<3'",
            "3:1: `base.python`: no Python from 3.8 on satisfies '<3'",
        ),
        (
            "schema = 1\n[service]\ncommand = []",
            "3:1: `service.command`: must name a program",
        ),
        (
            "schema = 1\n[service]\nready-url = 'ftp://x'",
            "3:1: `service.ready-url`: 'ftp://x' is not an http or https URL",
        ),
        (
            "schema = 1\n[service]\nready-url = 'http://me@x/'",
            "3:1: `service.ready-url`: the URL contains a user name or password,"
            " which must not be in a template",
        ),
        (
            "schema = 1\n[service]\nready-url = 'http://localhost:8000/é?a=%20'",
            "3:1: `service.ready-url`: 'http://localhost:8000/é?a=%20' is not percent-encoded: write"
            " 'http://localhost:8000/%C3%A9?a=%20'",
        ),
        (
            "schema = 1\n[service]\nready-url = 'http://é/'",
            "3:1: `service.ready-url`: 'http://é/' is not an http or https URL",
        ),
        ("schema = 1\n[resources]\ncpu = 34", "3:1: `resources.cpu`: 34 must be at most 32"),
        ("schema = 1\n[resources]\nmemory-mb = 129", "3:1: `resources.memory-mb`: 129 is not even"),
        (
            "schema = 1\n[resources]\nmemory-mb = 64",
            "3:1: `resources.memory-mb`: 64 must be at least 128",
        ),
        (
            "schema = 1\n[warmup]\nimports = ['os; import x']",
            "3:12: `warmup.imports[0]`: 'os; import x' is not the name of a Python module",
        ),
        (
            "schema = 1\n[warmup]\nreseed = 'import x; x.seed('",
            "3:1: `warmup.reseed`: is not Python code: '(' was never closed (its line 1)",
        ),
        (
            "schema = 1\n[[verify]]\nname = ''\ncode = ''",
            "3:1: `verify[0].name`: is empty",
        ),
        (
            "schema = 1\n[[verify]]\nname = 'x'",
            "2:3: `verify[0]`: has neither `code` nor `command` nor `http` (write the code, the command or the request that must succeed)",
        ),
        (
            "schema = 1\n[[verify]]\nname = 'x'\ncode = ''\ntimeout = 0",
            "5:1: `verify[0].timeout`: 0 must be at least 1",
        ),
        (
            "schema = 1\n[[files]]\nsource = '../x'\ntarget = '/x'",
            "3:1: `files[0].source`: '../x' is not a path inside the variants folder",
        ),
        (
            "schema = 1\n[[files]]\nsource = 'x'\ntarget = 'x'",
            "4:1: `files[0].target`: 'x' is not an absolute POSIX path of letters, digits and"
            " ._+@%~=,- without `.` or `..` in it",
        ),
        (
            "schema = 1\n[[files]]\nsource = 'x'\ntarget = '/x/../y'",
            "4:1: `files[0].target`: '/x/../y' is not an absolute POSIX path of letters, digits"
            " and ._+@%~=,- without `.` or `..` in it",
        ),
        (
            "schema = 1\n[[files]]\nsource = 'x'\ntarget = '/x'\nmode = '644'",
            "5:1: `files[0].mode`: '644' is not an octal mode such as '0644'",
        ),
        (
            f"schema = 1\nx = {'9' * 5000}",
            "2:5: is not valid TOML: a number with thousands of digits",
        ),
        (
            f"schema = 1\n[resources]\ncpu = 0x{'f' * 5000}",
            "3:1: `resources.cpu`: a number with thousands of digits must be at most 32",
        ),
        ("schema = true", "1:1: `schema`: expected the number 1, found True"),
        ("schema = 1.0", "1:1: `schema`: expected the number 1, found 1.0"),
        (
            "schema = 1\n[base]\npython = ''",
            "3:1: `base.python`: is empty; write for example '>=3.11'",
        ),
        (
            "schema = 1\n[system]\npackages = ['git-']",
            "3:13: `system.packages[0]`: 'git-' is not the name of a Debian package",
        ),
        (
            f"schema = 1\n[env]\nA = '{'x' * 140_000}'",
            "3:1: `env.A`: is longer than 30,000 characters",
        ),
        (
            f"schema = 1\n[[files]]\nsource = '{'x' * 300}'\ntarget = '/x'",
            "3:1: `files[0].source`: contains a name longer than 255 bytes",
        ),
        (
            f"schema = 1\n[[files]]\nsource = 'x'\ntarget = '/{'x' * 300}'",
            "4:1: `files[0].target`: contains a name longer than 255 bytes",
        ),
        (
            'schema = 1\n"a\\nb\\u001b[31m" = 1',
            f'2:1: `"a\\nb\\u001b[31m"`: unknown key (known here: {", ".join(KEYS)})',
        ),
        (
            "schema = 1\nnme = 'x'",
            "2:1: `nme`: unknown key (did you mean `name`?)",
        ),
        (
            "schema = 1\n[warmup]\nqqq = 1",
            "3:1: `warmup.qqq`: unknown key (known here: imports, level, reseed)",
        ),
    ],
)
def test_each_mistake_has_its_sentence(write: Write, text: str, problem: str | None) -> None:
    """Every kind of wrong value is refused in one sentence at the place where it stands."""
    folder = write(_x=text)
    if problem is None:
        told = "there are only abstract specs: every .toml file has a leading `_`"
        assert problems(folder) == [f"variants/: {told}"]
    else:
        place = "variants/_x.toml:" if problem[0].isdigit() else "variants/_x.toml: "
        assert problems(folder) == [place + problem]


def test_byte_order_mark_is_no_mistake(write: Callable[..., Path]) -> None:
    """A spec that an editor has saved with a byte order mark is read as without, and places of
    mistakes are the same."""
    text = "schema = 1\nname = 'leaf'\n[base]\nimage = 'x'\npython = '>=3.11'\n"
    file = write(leaf="") / "leaf.toml"
    file.write_text(text, encoding="utf-8-sig")
    (variant,) = load_variants(file.parent)
    assert (variant.name, place_of(file.parent, variant.source, ("name",))) == (
        "leaf",
        "variants/leaf.toml:2",
    )
    file.write_text(f"shcema = 1\n{text}", encoding="utf-8-sig")
    assert problems(file.parent)[0].startswith("variants/leaf.toml:1:1: `shcema`: ")
