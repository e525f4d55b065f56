"""Draw the pictures of the README from a real run: `python docs/pictures.py`.

It builds the template of the README in a copy of the project, on this machine, and runs code in it.
The output is drawn as it appears on a terminal of 100 columns.
"""

from __future__ import annotations

import io
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "pictures"
COLUMNS = 100
BUILD = "template-builder build data --target local"
RESULT = "python first.py"


def on_a_terminal(command: list[str], folder: Path, variables: dict[str, str]) -> str:
    """Return what a program writes to a terminal. Raises `CalledProcessError` if it fails."""
    theirs, ours = pty.openpty()
    output = b""
    with subprocess.Popen(
        command, cwd=folder, env=os.environ | variables, stdout=ours, stderr=ours, stdin=ours
    ) as process:
        os.close(ours)
        while True:
            try:
                chunk = os.read(theirs, 1 << 16)
            except OSError:  # the end, on Linux
                break
            if not chunk:
                break
            output += chunk
    os.close(theirs)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, output)
    return output.decode()


def as_it_stays(output: str) -> str:
    """Return the lines that stay on the screen: of a line that was drawn again, the last state."""
    output = re.sub(r"\x1b\[\?25[lh]", "", output)
    lines: list[str] = []
    row = 0
    for line in output.replace("\r\n", "\n").split("\n"):
        for part in re.split(r"(\x1b\[\d*A|\x1b\[\d*K|\r)", line):
            if up := re.fullmatch(r"\x1b\[(\d*)A", part):
                row -= int(up[1] or 1)
            elif re.fullmatch(r"\x1b\[\d*K", part) or part == "\r":
                lines[row:] = [""]
            else:
                lines += [""] * (row + 1 - len(lines))
                lines[row] += part
        row += 1
    return "\n".join(lines).rstrip()


def draw(name: str, title: str, command: str, output: str) -> None:
    """Write docs/pictures/NAME.svg, with no font from the network."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
    console.print(Text.from_ansi(output))
    frame = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    svg = console.export_svg(title=title, code_format=frame, unique_id=name)
    svg = "\n".join(line.rstrip() for line in svg.splitlines() if line.strip())
    (PICTURES / f"{name}.svg").write_text(f"{svg}\n", encoding="utf-8")


def main() -> None:
    """Build, run, and draw both."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    program, *_ = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "template-builder")
        folder.mkdir()
        for part in ("variants", "generated", "schemas"):
            shutil.copytree(ROOT / part, folder / part)
        variables = {
            "COLUMNS": str(COLUMNS),
            "TERM": "xterm-256color",
            "TEMPLATE_ACTOR": "you",
            "TEMPLATE_BUILDER_CACHE_DIR": str(Path(name, "cache")),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        variables |= {"NO_COLOR": ""} if "NO_COLOR" in os.environ else {}
        built = on_a_terminal(BUILD.split(), folder, variables)
        draw("build", "a build", BUILD, as_it_stays(built))
        (folder / "first.py").write_text(program, encoding="utf-8")
        result = on_a_terminal([sys.executable, "first.py"], folder, variables)
        draw("result", "the first result", RESULT, as_it_stays(result))


if __name__ == "__main__":
    main()
