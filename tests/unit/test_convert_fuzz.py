from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.convert import convert
from builder.errors import SourceError
from builder.spec import load_specs
from tests.support.conversions import Files

# Pieces of each kind of source; whatever holds a secret holds `hunter2`.
PIECES = {
    "Dockerfile": [
        "FROM python:3.13", "FROM x AS a", "RUN ", "COPY ", "ADD ", "--from=a ", "a /b", "\n", "d /b\n",
        "--chown=user ", "https://x.example/y /b\n", "d/e x /b/\n", ". /\n", "a /b/c\n", " \\\n",
        "ENV A=$B", "ENV PATH=/x:$PATH", "ARG B", "ARG B='$'", "USER app", "WORKDIR /w\n", "CMD ",
        '["a"]', "pip install idna", "pip install -r x", "apt-get install -y x", " && ", " || ", "; ",
        "$(", "`", "'", '"', "<<EOF", "\nEOF\n", "HEALTHCHECK CMD curl http://localhost:80/", "EXPOSE 80",
        "ENTRYPOINT ", "SHELL ", "cd /x", "useradd user", "python -m venv /v", "--mount=type=bind ",
        "curl -o x https://x.example/y", "chmod +x x", "${X:-a}", "é", "\x00", "{", "}", "/etc/apt/",
        "ARG TOKEN=hunter2\n", "ENV API_KEY=hunter2\n", "$TOKEN", "curl -u robot:hunter2 https://x",
        "--index-url https://robot:hunter2@x.example/simple ", "https://hunter2@x.example/y ",
        "--password hunter2", "Authorization: Bearer hunter2abcdefgh12", "SMTP_PASS=hunter2 a",
    ],
    "requirements.txt": [
        "idna", "==1", "-r x", " ", "\n", "\\\n", "#", " --hash=x", "-e .", "--index-url ", "[", ";", "é",
        "\x00", "-", "'", "a @ https://robot:hunter2@x.example/a.whl\n", "https://hunter2@x.example\n",
    ],
    "pyproject.toml": [
        "[project]\n", "[tool.poetry]\n", "[tool.poetry.dependencies]\n", "name = 'x'\n", "name = 1\n",
        "dependencies = ['idna', 'a @ b']\n", "dependencies = 3\n", "a = '^1.x'\n", "python = 3\n",
        "b = { version = '~1', optional = 1 }\n", "c = ['1', { git = 'x', rev = 'y' }]\n", "group = 3\n",
        "[tool.uv.sources]\n", "[project.optional-dependencies]\n", "requires-python = 'x'\n",
        "a = ['x', { include-group = 'y' }]\n", "[dependency-groups]\n", "[[tool.uv.index]]\n",
        "url = 'https://robot:hunter2@x.example/simple'\n", "dependencies = ['a @ https://hunter2@x']\n",
    ],
    "environment.yml": [
        "dependencies:\n", "- a\n", "- pip:\n", "  - b\n", "  - pip:\n    - x\n", "- numpy=1=py\n",
        "- a >=1,<2\n", "name: x\n", "variables:\n", "  A: b\n", "channels: [x]\n", "? [a]\n: b\n", "&a",
        "*a", "- python=3.9\n", "- =\n", "- [a]\n", "{", "}", "- !!x y\n", "  API_TOKEN: hunter2\n",
        "  - --index-url https://robot:hunter2@x.example\n",
    ],
    "e2b.toml": [
        "dockerfile = 'Dockerfile'\n", "dockerfile = 3\n", "start_cmd = 'x --password hunter2'\n",
        "start_cmd = 1\n", "cpu_count = 'x'\n", "memory_mb = 3\n", "template_name = 1\n", "[a]\nb = 1\n",
        "template_id = 'x'\n", "ready_cmd = 'curl http://localhost:80/'\n", "start_cmd = 'y'\n",
    ],
}  # fmt: skip
FILES = {"Dockerfile": "FROM x\nEXPOSE 80\n", "a": "", "x": "idna\n-r x\n", "d/e": ""}


@pytest.mark.parametrize("file", PIECES)
@given(data=st.data())
def test_any_source_becomes_a_valid_spec(file: str, data: st.DataObject) -> None:
    """Whatever a source says, it becomes a spec without mistakes and without its secrets, or is
    refused."""
    pieces = data.draw(st.lists(st.sampled_from(PIECES[file]), max_size=14))
    text = "".join(pieces)
    if file == "Dockerfile":
        text = f"FROM python:3.13\n{text}"
    try:
        conversion = convert(text.encode(), file, Files(FILES)).conversion("tools")
    except SourceError:
        return
    with tempfile.TemporaryDirectory() as folder:
        for path, copy in conversion.files.items():
            place = Path(folder, path)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(copy.content)
        Path(folder, "tools.toml").write_text(conversion.text)
        assert load_specs(Path(folder)).problems == ()
    assert "hunter2" not in conversion.text
    assert "hunter2" not in "".join(map(str, conversion.notes))
