from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from builder import workflow
from builder.cli.names import template_called, templates_called
from builder.errors import SelectionError, SpecError, UnknownTemplateError
from builder.project import Project
from builder.registry import Registry
from builder.workflow.selection import LeftOutWarning
from tests.conftest import BASE, Command

Write = Callable[..., Path]


def variant(name: str, extends: str = "_base", rest: str = "") -> str:
    return f"schema = 1\nname = {name!r}\nextends = {extends!r}\n{rest}"


@pytest.fixture
def place(write: Write) -> Project:
    """A project whose files are not called as their templates are."""
    folder = write(
        _base=BASE,
        data=variant("tta-data-minimal"),
        ml=variant("tta-ml-minimal"),
        docs=variant("docs"),
    )
    return Project.find(folder.parent)


def selected(place: Project, *names: str) -> list[str]:
    return [variant.name for variant in workflow.variants_called(place, names)]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["tta-data-minimal"], ["tta-data-minimal"]),
        (["data"], ["tta-data-minimal"]),
        (["variants/data.toml"], ["tta-data-minimal"]),
        (["tta-*"], ["tta-data-minimal", "tta-ml-minimal"]),
        (["d*"], ["tta-data-minimal", "docs"]),
        (["variants/[dm]*.toml"], ["tta-data-minimal", "docs", "tta-ml-minimal"]),
        (["ml", "tta-ml-minimal", "m?"], ["tta-ml-minimal"]),
        (["docs", "*"], ["docs", "tta-data-minimal", "tta-ml-minimal"]),
    ],
)
def test_what_a_name_means(place: Project, names: list[str], expected: list[str]) -> None:
    """A template's name, its file's stem, a path and a glob all name variants, each once."""
    assert selected(place, *names) == expected


def test_a_path_from_where_one_stands(place: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is that of the folder one stands in, or of the project."""
    monkeypatch.chdir(place.variants)
    assert selected(place, "data.toml") == ["tta-data-minimal"]
    assert selected(place, "variants/ml.toml") == ["tta-ml-minimal"]
    assert selected(place, str(place.variants / "docs.toml")) == ["docs"]


def test_a_template_name_goes_before_a_stem(write: Write) -> None:
    """Where one file is called as another one's template is, the template is meant."""
    folder = write(_base=BASE, a=variant("b"), b=variant("c"))
    assert selected(Project.find(folder.parent), "b", "c") == ["b", "c"]


THERE = "there are: docs, tta-data-minimal, tta-ml-minimal"


@pytest.mark.parametrize(
    ("names", "message", "hint"),
    [
        (["daat"], f"no spec is called `daat`; {THERE}", "did you mean `data`?"),
        (["zzz"], f"no spec is called `zzz`; {THERE}", None),
        (
            ["daat", "docs", "tta-lm-minimal", "zzz"],
            f"no spec is called `daat` or `tta-lm-minimal` or `zzz`; {THERE}",
            "did you mean `data` for `daat`, `tta-ml-minimal` or `tta-data-minimal` for"
            " `tta-lm-minimal`?",
        ),
        (["x*"], f"no spec matches `x*`; {THERE}", None),
        (
            ["x*", "dosc"],
            f"no spec is called `dosc` and no spec matches `x*`; {THERE}",
            "did you mean `docs` for `dosc`?",
        ),
        (["_b*"], f"no spec matches `_b*`; {THERE}", None),
        (["_base"], "`_base` is an abstract spec and never built alone", None),
        (
            ["variants/dta.toml"],
            f"no spec is called `variants/dta.toml`; {THERE}",
            "did you mean `variants/data.toml`?",
        ),
    ],
)
def test_names_of_nothing(place: Project, names: list[str], message: str, hint: str | None) -> None:
    """Every name of nothing is told at once, with all that is near it."""
    with pytest.raises(SelectionError) as error:
        selected(place, *names)
    assert error.value.message == message
    if hint is None or len(names) > 1 or "variants" not in names[0]:
        assert error.value.hint == hint
    else:
        assert str(error.value.hint).startswith(hint.removesuffix("?"))


BROKEN = "schema = 1\nname = 'broken'\nextends = '_base'\nnonsense = 1\n"


def test_a_mistake_stops_only_what_needs_it(write: Write) -> None:
    """A variant is taken although another spec, a shared stage included, has a mistake; a warning
    names the files."""
    folder = write(
        _base=BASE, good=variant("good"), broken=BROKEN, _odd="x", child=variant("child", "_odd")
    )
    place = Project.find(folder.parent)
    left_out = (
        r"^skipped because of mistakes: variants/_odd.toml, variants/broken.toml;"
        r" `template-builder validate` reports them$"
    )
    for name in ("good", "variants/good.toml", "goo*"):
        with pytest.warns(LeftOutWarning, match=left_out):
            assert selected(place, name) == ["good"]


@pytest.mark.parametrize(
    ("names", "problems"),
    [
        ([], ["_odd", "broken"]),
        (["broken"], ["broken"]),
        (["good", "broken"], ["broken"]),
        (["*"], ["_odd", "broken"]),
        (["child"], ["_odd"]),
        (["variants/child.toml"], ["_odd"]),
    ],
)
def test_a_mistake_stops_what_needs_it(write: Write, names: list[str], problems: list[str]) -> None:
    """What is named, or is meant by naming nothing, is told its mistakes, those of its parents
    included, and no others."""
    folder = write(
        _base=BASE, good=variant("good"), broken=BROKEN, _odd="x", child=variant("child", "_odd")
    )
    with pytest.raises(SpecError) as error:
        selected(Project.find(folder.parent), *names)
    assert [problem.file for problem in error.value.problems] == [
        f"variants/{stem}.toml" for stem in problems
    ]


def test_a_name_that_two_files_have(write: Write) -> None:
    """A name that two files have is an error for whoever names one of them, and for no other."""
    folder = write(_base=BASE, a=variant("same"), b=variant("same"), good=variant("good"))
    place = Project.find(folder.parent)
    for name in ("same", "a", "b", "variants/a.toml"):
        with pytest.raises(SpecError) as error:
            selected(place, name)
        assert [str(problem) for problem in error.value.problems] == [
            "variants/b.toml:2:1: `name`: 'same' is already the name of variants/a.toml"
        ]
    with pytest.warns(LeftOutWarning):
        assert selected(place, "good") == ["good"]


def test_parents_that_are_missing_or_go_round(write: Write) -> None:
    """A missing parent and a circle stop those above them alone."""
    folder = write(
        _base=BASE,
        good=variant("good"),
        orphan=variant("orphan", "_nowhere"),
        _a="schema = 1\nextends = '_b'\n",
        _b="schema = 1\nextends = '_a'\n",
        round=variant("round", "_b"),
    )
    place = Project.find(folder.parent)
    with pytest.warns(LeftOutWarning):
        assert selected(place, "good") == ["good"]
    with pytest.raises(SpecError, match="there is no '_nowhere' to extend"):
        selected(place, "orphan")
    with pytest.raises(SpecError, match="extends itself: _a → _b → _a"):
        selected(place, "round")


def test_a_mistake_that_children_share_is_told_once(write: Write) -> None:
    """A mistake in a shared stage is one line, however many variants extend it."""
    file = "[[files]]\nsource = 'f'\ntarget ="
    folder = write(
        _base=f"{BASE}\n{file} '/a/b'\n",
        _mid=f"schema = 1\nextends = '_base'\n{file} '/a'\n",
        one=variant("one", "_mid"),
        two=variant("two", "_mid"),
    )
    (folder / "f").touch()
    with pytest.raises(SpecError) as error:
        selected(Project.find(folder.parent))
    assert str(error.value) == (
        "1 problem in the specs:\n"
        "variants/_base.toml:9:1: `files[0].target`: '/a/b' is below '/a', a file of"
        " variants/_mid.toml"
    )


def registry_of(*names: str) -> Registry:
    return Registry({"version": 1, "templates": {name: {} for name in names}}, "registry.json")


def test_names_in_the_registry(place: Project) -> None:
    """Where a recorded template is meant, its name goes first, then its spec's stem, path or glob."""
    known = ["tta-data-minimal", "tta-ml-minimal", "adopted", "ml"]
    called = {
        name: template_called(name, known, place.root)
        for name in ("tta-ml-minimal", "ml", "data", "data@next", "variants/data.toml", "ad*", "no")
    }
    assert called == {
        "tta-ml-minimal": "tta-ml-minimal",
        "ml": "ml",
        "data": "tta-data-minimal",
        "data@next": "tta-data-minimal@next",
        "variants/data.toml": "tta-data-minimal",
        "ad*": "adopted",
        "no": "no",
    }
    with pytest.raises(SelectionError) as several:
        template_called("tta-*", known, place.root)
    assert str(several.value) == (
        "`tta-*` means several templates: `tta-data-minimal`, `tta-ml-minimal`\n\n"
        "hint: name one of them"
    )
    with pytest.raises(SelectionError) as none:
        template_called("x*", known, place.root)
    assert str(none.value) == (
        "no template matches `x*`; there are: adopted, ml, tta-data-minimal, tta-ml-minimal"
    )
    recorded = registry_of(*known)
    assert templates_called(["*-minimal", "ml"], recorded, place.root) == set(known) - {"adopted"}
    with pytest.raises(UnknownTemplateError) as unknown:
        templates_called(["adotped", "x*"], recorded, place.root)
    assert str(unknown.value) == (
        "no template is called or matches `adotped` or `x*` in registry.json; there are:"
        " adopted, ml, tta-data-minimal, tta-ml-minimal\n\n"
        "hint: did you mean `adopted` for `adotped`?"
    )


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["resolve", "data"], "local:x@1\n"),
        (["resolve", "variants/data.toml"], "local:x@1\n"),
        (["resolve", "*-data-*"], "local:x@1\n"),
        (["show", "data"], "tta-data-minimal on local, channel stable: local:x@1"),
        (["show", "data@stable"], "tta-data-minimal on local, channel stable: local:x@1"),
        (["list", "d*"], "tta-data-minimal"),
        (["logs", "data"], "the log"),
        (["diff", "data", "variants/data.toml"], "no committed lock"),
        (["promote", "data", "--channel", "next"], "tta-data-minimal"),
        (
            ["rollback", "data"],
            "channel `stable` of `tta-data-minimal` on `local` cannot go back 1 build",
        ),
        (["unhold", "data"], "channel stable of tta-data-minimal on local is not on hold"),
        (["revoke", "data", "stable", "--reason", "bad"], "(tta-data-minimal on local)"),
        (["restore", "data", "stable"], "is not revoked"),
        (["validate", "data"], "variants/data.toml: tta-data-minimal (_base → data): valid"),
    ],
)
def test_every_command_takes_a_stem(
    place: Project, command: Command, arguments: list[str], output: str
) -> None:
    """Every command that takes a template's name takes what leads to its file, also beside a broken
    spec."""
    (place.variants / "broken.toml").write_text(BROKEN)
    build = {"template_id": "x", "origin": "built", "verified": {"seconds": {}}}
    entry = {"channels": {"stable": "local:x@1"}, "builds": {"local:x@1": build}}
    (place.root / "registry.json").write_text(
        json.dumps({"version": 1, "templates": {"tta-data-minimal": {"local": entry}}})
    )
    log = place.root / ".builder" / "logs" / "tta-data-minimal" / "1-local.log"
    os.makedirs(log.parent)
    log.write_text("the log")
    shown = command(*arguments, cwd=place.root)
    assert "Traceback" not in shown.stderr
    assert output in shown.stdout + shown.stderr
