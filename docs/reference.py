"""The reference pages that need no command line: registry.json, and the examples."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from builder.spec.models import schemas

EXAMPLES = Path(__file__).parent.parent / "examples"


def registry_page(mark: str) -> str:
    """Return the page of every key of registry.json, from its schema; `mark` says who writes it."""
    schema = schemas()["registry"]
    lines = [
        "# registry.json, key by key",
        "",
        mark,
        "The file is JSON with sorted keys, an indentation of two spaces and a final newline.",
        "template-builder writes it; unknown keys are kept, and a greater `version` is refused.",
        "[The registry](registry.md) says how to use it.",
    ]
    for path, table in _tables("", schema):
        title = f"`{path}`" if path else "Top level"
        lines += ["", f"## {title}", ""]
        if path and "description" in table:
            lines += [_sentence(table["description"]), ""]
        lines += ["| key | type | |", "|---|---|---|"]
        for key, field in table.get("properties", {}).items():
            lines.append(f"| `{key}` | {_type(field)} | {field.get('description', '')} |")
    return "\n".join(lines) + "\n"


def _tables(path: str, field: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each table with named keys, with the path that leads to it."""
    if "properties" in field:
        yield path, field
    prefix = f"{path}." if path else ""
    for key, inner in field.get("properties", {}).items():
        name = "NAME" if key == "templates" else None
        yield from _tables(f"{prefix}{key}" + (f".{name}" if name else ""), _without(inner, name))
    if "items" in field:
        yield from _tables(f"{path}[]", field["items"])
    if isinstance(field.get("additionalProperties"), dict):
        below = {"builds": "REF", "holds": "CHANNEL", "channels": "CHANNEL"}
        name = below.get(path.rpartition(".")[2], "TARGET" if path.endswith("NAME") else "CAUSE")
        yield from _tables(f"{prefix}{name}", field["additionalProperties"])


def _without(field: dict[str, Any], name: str | None) -> dict[str, Any]:
    inner: dict[str, Any] = field["additionalProperties"] if name else field
    return inner


def _type(field: dict[str, Any]) -> str:
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if "anyOf" in field:
        return " or ".join(map(_type, field["anyOf"]))
    kind = field.get("type", "string")
    names = {
        "string": "text",
        "integer": "number",
        "array": "list",
        "object": "table",
        "boolean": "true or false",
    }
    kinds = [kind] if isinstance(kind, str) else kind
    return " or ".join(names.get(name, name) for name in kinds)


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text[0].upper()}{text[1:]}."


def examples_page(mark: str) -> str:
    """Return the page of the programs in examples/, each with what it prints."""
    lines = [
        "# Examples",
        "",
        mark,
        "Whole programs, from the folder `examples` of the repository. Build the template that",
        "they use once, `template-builder build tta-data-minimal`, then run one on your machine:",
        "`TEMPLATE_TARGET=local python examples/agent_tool.py`. Without the variable it runs on",
        "E2B.",
        "[Security](security.md) says how the code is kept from your files.",
    ]
    for path in sorted(EXAMPLES.glob("*.py")):
        code = path.read_text(encoding="utf-8")
        docstring = ast.get_docstring(ast.parse(code)) or ""
        summary, _, printed = docstring.partition("Prints:\n\n")
        body = code.split('"""\n', 1)[1].strip() if docstring else code
        lines += ["", f"## {path.name}", "", summary.strip()]
        if printed:
            text = "\n".join(line.removeprefix("    ") for line in printed.rstrip().splitlines())
            lines += ["", "It prints:", "", "```text", text, "```"]
        lines += ["", "```python", body, "```"]
    return "\n".join(lines) + "\n"
