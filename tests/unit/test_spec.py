from __future__ import annotations

import contextlib
import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import SpecError
from builder.spec import Variant, load_variants
from builder.spec.models import schemas
from builder.spec.positions import Positions
from builder.spec.python import python_floor
from tests.conftest import BASE, ROOT
from tests.support.samples import problems

Write = Callable[..., Path]
LEAF = 'schema = 1\nname = "leaf"\nextends = "_base"\n'


def only(folder: Path) -> Variant:
    (variant,) = load_variants(folder)
    return variant


def test_chain_is_spelt_out_root_first(write: Write) -> None:
    """A variant knows its stages from the root of its chain to itself."""
    folder = write(
        _base=BASE, _mid='schema = 1\nextends = "_base"', leaf=LEAF.replace("_base", "_mid")
    )
    assert [stage.stem for stage in only(folder).stages] == ["_base", "_mid", "leaf"]


def test_scalars_of_a_child_replace_its_parents(write: Write) -> None:
    """What a child sets wins, what it does not set is inherited, table by table."""
    folder = write(
        _base=BASE + "[resources]\ncpu = 4\nmemory-mb = 512\n[env]\nA = '1'\nB = '2'",
        leaf=LEAF + "[resources]\ncpu = 8\n[env]\nB = '3'\n[base]\npython = '>=3.12'",
    )
    variant = only(folder)
    assert (variant.cpu, variant.memory_mb) == (8, 512)
    assert variant.env == {"A": "1", "B": "3"}
    assert (variant.image, variant.python_floor) == ("localhost:1/python:3.13", "3.12")


def test_what_may_break_is_collected_down_the_chain(write: Write) -> None:
    """A child adds to what its parents accept to be broken; a name must be one."""
    folder = write(
        _base=BASE + "[python]\naccept-broken = ['numba']",
        leaf=LEAF + "[python]\naccept-broken = ['gensim']",
    )
    assert only(folder).accept_broken == ("numba", "gensim")
    (folder / "leaf.toml").write_text(LEAF + "[python]\naccept-broken = ['a b']")
    assert problems(folder) == [
        "variants/leaf.toml:5:18: `python.accept-broken[0]`: 'a b' is not the name of a Python package"
    ]


def test_packages_files_and_checks_stay_with_their_stage(write: Write) -> None:
    """Lists are added by the stage that declares them and never taken away."""
    folder = write(
        _base=BASE + "[python]\npackages = ['idna']\n[[verify]]\nname = 'a'\ncode = 'pass'",
        leaf=LEAF + "[python]\npackages = ['six']\n[[verify]]\nname = 'b'\ncode = 'pass'",
    )
    variant = only(folder)
    assert [stage.requirements for stage in variant.stages] == [("idna",), ("six",)]
    assert variant.requirements == ("idna", "six")
    assert [check.name for check in variant.checks] == ["a", "b"]


def test_torch_backend_is_merged_down_to_each_stage(write: Write) -> None:
    """A stage takes PyTorch from the backend that is in force where it stands in the chain."""
    folder = write(
        _base=BASE,
        _torch="schema = 1\nextends = '_base'\n[python]\ntorch-backend = 'cpu'",
        leaf=LEAF.replace("_base", "_torch"),
    )
    assert [stage.torch_backend for stage in only(folder).stages] == [None, "cpu", "cpu"]


def test_shared_stage_is_one_object(write: Write) -> None:
    """Variants that share a stage share its value, so nothing can differ between them."""
    folder = write(_base=BASE, a=LEAF.replace("leaf", "a"), b=LEAF.replace("leaf", "b"))
    a, b = load_variants(folder)
    assert a.stages[0] is b.stages[0]


def test_everything_wrong_is_reported_at_once(write: Write) -> None:
    """All mistakes of all files come in one report, each with file, line, column and key."""
    folder = write(
        _base=BASE.replace('">=3.11"', '"3.11 or so"'),
        one="""
            schema = 1
            name = "One"
            extends = "_bas"
            descripton = "x"
            [python]
            packages = ["numpy", "not a requirement"]
            [resources]
            cpu = 3
            memory-mb = "many"
            [[run]]
            command = "true"
            network = "none"
        """,
        two="schema = 1\n[warmup]\nlevel = 'hot'\n",
    )
    assert problems(folder) == [
        "variants/_base.toml:5:1: `base.python`:"
        " '3.11 or so' is not a version specifier such as '>=3.11'",
        "variants/one.toml:3:1: `name`: 'One' is not a template name: a-z, 0-9, - and _",
        "variants/one.toml:4:1: `extends`: there is no '_bas' to extend (did you mean `_base`?)",
        "variants/one.toml:5:1: `descripton`: unknown key (did you mean `description`?)",
        "variants/one.toml:7:22: `python.packages[1]`: 'not a requirement' is not a PEP 508"
        " requirement: Expected semicolon (after name with no version specifier) or end",
        "variants/one.toml:9:1: `resources.cpu`: 3 is neither 1 nor even",
        "variants/one.toml:10:1: `resources.memory-mb`: expected a whole number, found 'many'",
        "variants/one.toml:13:1: `run[0].network`: expected true or false, found 'none'",
        "variants/two.toml:3:1: `warmup.level`: 'hot' is not one of 'none', 'disk' or 'memory'",
    ]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"_base": BASE, "a": LEAF, "b": LEAF},
            ["variants/b.toml:2:1: `name`: 'leaf' is already the name of variants/a.toml"],
        ),
        (
            {"_base": BASE, "a": "schema = 1\nextends = '_base'"},
            ["variants/a.toml: `name`: is missing (every spec without a leading `_` needs a name)"],
        ),
        (
            {"_base": BASE.replace("schema = 1", "schema = 1\n    name = 'x'")},
            [
                "variants/_base.toml:3:1: `name`:"
                " an abstract spec (leading `_`) is never built and has no name"
            ],
        ),
        (
            {"_a": "schema = 1\nextends = '_b'", "_b": "schema = 1\nextends = '_a'"},
            ["variants/_a.toml:2:1: `extends`: extends itself: _a → _b → _a"],
        ),
        (
            {"_a": "schema = 1\nextends = '_a'"},
            ["variants/_a.toml:2:1: `extends`: extends itself: _a → _a"],
        ),
        (
            {"_base": BASE, "a": LEAF + "[python]\npackages = [\"six; extra == 'x'\"]"},
            [
                "variants/a.toml:5:13: `python.packages[0]`: \"six; extra == 'x'\" has a marker"
                " with `extra`, which has no meaning in a spec: remove the marker or the package"
            ],
        ),
        (
            {"_base": BASE, "a": LEAF + "[warmup]\nlevel = 'disk'"},
            [
                "variants/a.toml:5:1: `warmup.level`: is 'disk', but there is nothing to import"
                " (list modules in `warmup.imports`, or set the level to none)"
            ],
        ),
        (
            {"_base": BASE, "a": LEAF + "[warmup]\nlevel = 'memory'\nimports = ['os']"},
            [
                "variants/a.toml:5:1: `warmup.level`: is 'memory', but there is no service whose"
                " interpreter can be kept warm (add [service], or set the level to disk)"
            ],
        ),
        (
            {"_base": BASE, "a": LEAF + "[warmup]\nreseed = 'import x'"},
            [
                "variants/a.toml:5:1: `warmup.reseed`: has no effect at level 'none': every"
                ' sandbox starts a new interpreter (set `warmup.level` to "memory", or leave `warmup.reseed`'
                " out)"
            ],
        ),
        (
            {"_base": BASE, "a": LEAF + "[service]\ncommand = ['run']"},
            [
                "variants/a.toml:4:2: `service.ready-url`: is required with `service.command`"
                " (set the URL that answers 200 once the service is up, or `ready-port` or"
                " `ready-command`)"
            ],
        ),
        (
            {
                "_base": BASE + "[[verify]]\nname = 'same'\ncode = ''",
                "a": LEAF + "[[verify]]\nname = 'same'\ncode = ''",
            },
            [
                "variants/a.toml:5:1: `verify[0].name`:"
                " 'same' is already the name of a check in variants/_base.toml"
            ],
        ),
        (
            {"template": BASE},
            ["variants/template.toml: this file name is reserved for a stage of the Dockerfile"],
        ),
        (
            {"Upper": BASE},
            [
                "variants/Upper.toml: the file name of a spec consists of a-z, 0-9, - and _, and begins with a letter"
            ],
        ),
        (
            {"1st": BASE},
            [
                "variants/1st.toml: the file name of a spec consists of a-z, 0-9, - and _, and begins with a letter"
            ],
        ),
        *(
            (
                {stem: BASE},
                [f"variants/{stem}.toml: this file name is reserved for a stage of the Dockerfile"],
            )
            for stem in ("scratch", "context")
        ),
        (
            {
                "_base": BASE + "[[files]]\nsource = 'f'\ntarget = '/a'",
                "leaf": LEAF + "[[files]]\nsource = 'f'\ntarget = '/a/b'",
            },
            [
                "variants/_base.toml:7:1: `files[0].source`: 'f' cannot be read: No such file or directory",
                "variants/leaf.toml:5:1: `files[0].source`: 'f' cannot be read: No such file or directory",
                "variants/leaf.toml:6:1: `files[0].target`: '/a/b' is below '/a', a file of variants/_base.toml",
            ],
        ),
        ({}, ["variants/: there are no specs (.toml files) in it"]),
    ],
)
def test_what_files_say_together_is_checked(
    write: Write, files: dict[str, str], expected: list[str]
) -> None:
    """Mistakes that only the whole folder shows are reported like all others."""
    assert problems(write(**files)) == expected


def test_files_are_read_from_inside_the_folder_only(write: Write, tmp_path: Path) -> None:
    """A source that is a link, is behind a link, is no file or is absent is refused, unread."""
    entries = "".join(
        f"[[files]]\nsource = '{source}'\ntarget = '/opt/{number}'\n"
        for number, source in enumerate(["link", "away/secret", "pipe", "folder", "absent"])
    )
    folder = write(_base=BASE, leaf=LEAF + entries)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "outside" / "secret")
    (folder / "away").symlink_to(tmp_path / "outside")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    assert [line.partition("`: ")[2] for line in problems(folder)] == [
        "'link' is a symbolic link, or is below one",
        "'away/secret' is a symbolic link, or is below one",
        "'pipe' is not a regular file",
        "'folder' is a folder (write 'folder/' to copy its content)",
        "'absent' cannot be read: No such file or directory",
    ]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_link_in_a_folder_is_refused(write: Write, tmp_path: Path, kind: str) -> None:
    """A link to a file or to a folder, inside a folder of files, is refused and not left out."""
    folder = write(_base=BASE, leaf=LEAF + "[[files]]\nsource = 'app/'\ntarget = '/opt/app'\n")
    (folder / "app").mkdir()
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    (folder / "app" / "link").symlink_to(tmp_path / kind)
    assert [line.partition("`: ")[2] for line in problems(folder)] == [
        "'app/link' is a symbolic link, or is below one"
    ]


def test_source_that_is_too_large_is_not_read(write: Write) -> None:
    """A file of more than 64 MiB is refused by its size alone, at once."""
    folder = write(_base=BASE, leaf=LEAF + "[[files]]\nsource = 'big'\ntarget = '/big'")
    with (folder / "big").open("wb") as file:
        file.truncate(100 << 30)
    assert problems(folder) == [
        "variants/leaf.toml:5:1: `files[0].source`: 'big' is larger than 64 MiB"
        " (offer it at an address: `[[download]]` and `python.packages` take one)"
    ]


def test_unreadable_spec_files_are_reported(write: Write) -> None:
    """A variant file that is no text, no file or far too large is a problem like any other."""
    folder = write(_base=BASE)
    (folder / "a.toml").write_bytes(b"\xff\xfe")
    (folder / "b.toml").mkdir()
    (folder / "c.toml").write_bytes(b"#" * (2 << 20))
    assert problems(folder) == [
        "variants/a.toml: is not UTF-8 text",
        "variants/b.toml: is not a regular file",
        "variants/c.toml: is larger than 1048576 bytes",
    ]


def test_nesting_without_end_is_no_crash(write: Write) -> None:
    """Values nested a hundred thousand times are one problem, at the first beyond the limit."""
    folder = write(_base=f"schema = 1\nx = {'[' * 100_000}")
    assert problems(folder) == ["variants/_base.toml:2:24: is nested deeper than 20 levels"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (".".join("a" * 400) + " = 1", ""),
        ("x = " + "{a=" * 60 + "1" + "}" * 60, ":2:62"),
        ("x = " + "{a=" * 20 + "1" + "}" * 20, ":2:62"),
    ],
)
def test_tables_nested_without_end_are_told(write: Write, text: str, place: str) -> None:
    """Tables nested hundreds of times are one problem, not a traceback."""
    folder = write(_base=f"schema = 1\n{text}")
    assert problems(folder) == [
        f"variants/_base.toml{place or ':'} is nested deeper than 20 levels".replace("62 ", "62: ")
    ]


@pytest.mark.parametrize(
    ("specifier", "floor"),
    [
        (">=3.11", "3.11"),
        (">= 3.12", "3.12"),
        (">=3.7", "3.8"),
        (">3.11", "3.11"),
        (">=3.11.4,<3.13", "3.11"),
        ("==3.12.*", "3.12"),
        ("~=3.13", "3.13"),
        ("==3.11.2", "3.11"),
        (">3.12.1,<3.12.4", "3.12"),
        ("==3.13.5,!=3.13.0", "3.13"),
    ],
)
def test_python_floor(specifier: str, floor: str) -> None:
    """The lock is resolved for the lowest minor version that a specifier lets in."""
    assert python_floor(specifier) == floor


def test_positions_of_every_shape() -> None:
    """Keys are found in tables, arrays of tables, dotted and quoted keys and inline tables."""
    text = 'a.b = 1\n[t]\n"q k" = [1,\n  2]\n[[l]]\nx = {y = {z = 1}}\n[[l]] # c\nx = [{w = 1}]\n'
    places = Positions(text)
    assert [
        places.of(path)
        for path in (
            ("a", "b"),
            ("t",),
            ("t", "q k", 1),
            ("l", 0, "x", "y", "z"),
            ("l", 1),
            ("l", 1, "x", 0, "w"),
            ("t", "absent"),
            ("absent",),
        )
    ] == [(1, 1), (2, 2), (4, 3), (6, 11), (7, 3), (8, 7), (2, 2), (0, 0)]


@given(text=st.text(max_size=200))
def test_any_text_is_a_variant_or_a_report(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever stands in a variant file, loading it ends with variants or with a SpecError."""
    folder = tmp_path_factory.mktemp("any")
    (folder / "_x.toml").write_text(text, encoding="utf-8", errors="replace")
    with contextlib.suppress(SpecError):
        load_variants(folder)


def test_schemas_are_committed() -> None:
    """The schemas in schemas/ are those of the models."""
    for name, schema in schemas().items():
        committed = json.loads((ROOT / "schemas" / f"{name}.schema.json").read_text())
        assert committed == schema


def test_schemas_accept_what_the_project_holds() -> None:
    """Editors find no fault in the specs of this repository, nor in its registry."""
    for path in (ROOT / "variants").glob("*.toml"):
        jsonschema.validate(tomllib.loads(path.read_text()), schemas()["variant"])
        assert path.read_text().startswith("#:schema ../schemas/variant.schema.json\n")
    registry = json.loads((ROOT / "registry.json").read_text())
    jsonschema.validate(registry, schemas()["registry"])
