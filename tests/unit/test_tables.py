from __future__ import annotations

from builder.cli.tables import lines_of

DIGEST = "679a45e9e99a" + "0" * 52
LOCAL = f"local:tta-data-minimal@sha256-{DIGEST}"
ON_E2B = "abcdefghij0123456789:0a1b2c3d-1111-2222-3333-444455556666"
LISTED = ["name", "target", "built at", "by", "ref"]
ROWS = [
    ["tta-data-minimal", "local", "2026-11-26T10:00:00Z", "Ann Lee <ann@example.org>", LOCAL],
    ["tta-nlp-minimal", "e2b", "2026-11-25T10:00:00Z", "ci", ON_E2B],
]


def table(headings: list[str], rows: list[list[str]], width: int | None) -> str:
    return "\n".join(lines_of(headings, rows, width))


def test_without_a_width_cells_are_whole() -> None:
    """Outside a terminal, columns are aligned and every cell is whole."""
    assert table(["name", "ref"], [["a", LOCAL], ["bc", ""]], None) == (
        f"name  ref\na     {LOCAL}\nbc"
    )


def test_a_wide_terminal_shows_whole_cells() -> None:
    """A table that fits is not shortened."""
    lines = table(LISTED, ROWS, 200).splitlines()
    assert lines[2].split("  ")[-1] == LOCAL
    assert lines[1].startswith("────────────────  ──────  ────")


def test_refs_people_and_times_are_shortened_to_fit() -> None:
    """In 80 columns digests and build IDs are cut, people have no address, and times are dates."""
    assert table(LISTED, ROWS, 80) == (
        "name              target  built at              by       ref\n"
        "────────────────  ──────  ────────────────────  ───────  ────────────\n"
        "tta-data-minimal  local   2026-11-26T10:00:00Z  Ann Lee  679a45e9e99a\n"
        "tta-nlp-minimal   e2b     2026-11-25T10:00:00Z  ci       0a1b2c3d"
    )
    assert table(LISTED, ROWS, 60).splitlines()[2:] == [
        "tta-data-minimal  local   2026-11-26  Ann Lee  679a45e9e99a",
        "tta-nlp-minimal   e2b     2026-11-25  ci       0a1b2c3d",
    ]


def test_text_is_wrapped_between_words() -> None:
    """Text that is too long continues below, and no word of it is broken."""
    rows = [["light", "build", "package `torch` changed: 2.14.0 → 2.14.1"]]
    assert table(["template", "action", "reason"], rows, 50) == (
        "template  action  reason\n"
        "────────  ──────  ────────────────────────────────\n"
        "light     build   package `torch` changed: 2.14.0\n"
        "                  → 2.14.1"
    )


def test_rows_become_paragraphs_where_columns_do_not_fit() -> None:
    """Where no width suffices for all columns, each row is a paragraph of its values."""
    rows = [
        ["light", "built", LOCAL, "1,234 MiB", "35.2 s", "cold 5.5 s → disk 230.0 ms"],
        ["", "", "", "", "", "and one line more"],
        ["other", "failed", "-", "-", "1.0 s", "-"],
    ]
    headings = ["template", "result", "ref", "size", "duration", "first import"]
    assert table(headings, rows, 60) == (
        "light\n"
        "  result: built, ref: 679a45e9e99a, size: 1,234 MiB,\n"
        "  duration: 35.2 s, first import: cold 5.5 s → disk 230.0 ms\n"
        "  and one line more\n"
        "other\n"
        "  result: failed, duration: 1.0 s"
    )
