from __future__ import annotations

import json

import pytest

from builder import errors
from builder.cli.app import run
from builder.errors.explained import explanation_of, explanations

CODES = {
    kind.exit_code: name
    for name, kind in vars(errors).items()
    if isinstance(kind, type)
    and issubclass(kind, errors.TemplateError)
    and "exit_code" in vars(kind)
}


def test_every_exit_code_is_explained() -> None:
    """Each error with a code of its own has a cause and a remedy, and so have the other codes."""
    others = {0: "Done", 2: "SomethingToDo", 64: "UsageError"}
    assert {entry.code: entry.name for entry in explanations()} == CODES | others
    assert all(entry.cause.endswith(".") and entry.remedy.endswith(".") for entry in explanations())


def test_codes_are_explained_in_their_order() -> None:
    """The explanations are sorted by code, and no code has two."""
    codes = [entry.code for entry in explanations()]
    assert codes == sorted(set(codes))


@pytest.mark.parametrize("wanted", ["4", "SpecError", "specerror"])
def test_an_error_is_explained_by_code_and_by_name(
    wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`explain` takes an exit code, or the name of an error in any case."""
    assert run(["explain", wanted]) == 0
    first, cause, remedy = capsys.readouterr().out.splitlines()
    assert first == "4       SpecError"
    assert cause.startswith("cause   One or more specs in `variants/` are not valid.")
    assert remedy.startswith("remedy  Correct them; `template-builder validate` checks again")


def test_every_code_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Without an argument `explain` lists all codes, as JSON with their remedies."""
    assert run(["explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["code", "name", "cause"]
    assert len(lines) == len(explanations()) + 1
    assert run(["explain", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[3] == {
        "code": 3,
        "name": "ProjectError",
        "cause": explanation_of("3").cause,
        "remedy": explanation_of("3").remedy,
    }


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("47", "the nearest are 46, 45, 44"),
        ("SpecErorr", "did you mean `SpecError` or `StepError` or `FetchError`?"),
        ("nothing like it", "`template-builder explain` lists all"),
    ],
)
def test_near_matches_of_an_unknown_code(wanted: str, hint: str) -> None:
    """A code or name that does not exist is an error with the nearest that do."""
    with pytest.raises(errors.SelectionError) as caught:
        run(["explain", wanted])
    assert caught.value.message == f"there is no exit code or error `{wanted}`"
    assert caught.value.hint == hint
