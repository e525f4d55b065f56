"""Git repositories on a server that serves files."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.index_server import IndexServer

# A build backend without dependencies, which an index would have to provide.
BACKEND = """
import zipfile
from pathlib import Path

NAME = "library-2.5.dist-info"


def build_wheel(folder, config_settings=None, metadata_directory=None):
    file = "library-2.5-py3-none-any.whl"
    texts = {
        "library.py": Path("library.py").read_text(),
        f"{NAME}/METADATA": "Metadata-Version: 2.1\\nName: library\\nVersion: 2.5\\n",
        f"{NAME}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    texts[f"{NAME}/RECORD"] = "".join(f"{path},,\\n" for path in [*texts, f"{NAME}/RECORD"])
    with zipfile.ZipFile(Path(folder) / file, "w") as archive:
        for path, text in texts.items():
            archive.writestr(path, text)
    return file
"""


def commit_of_a_library(folder: Path, index: IndexServer) -> str:
    """Return a requirement for a commit of a repository that the server has."""
    source = folder / "library"
    source.mkdir()
    (source / "library.py").write_text("NAME = 'library'\n")
    (source / "backend.py").write_text(BACKEND)
    (source / "pyproject.toml").write_text(
        "[project]\nname = 'library'\nversion = '2.5'\n"
        "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
    )

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        command = ["git", "-C", str(source), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--initial-branch=main")
    git("add", "--all")
    git("commit", "--message=first")
    git("update-server-info")
    for path in (source / ".git").rglob("*"):
        if path.is_file():
            key = f"/library.git/{path.relative_to(source / '.git')}"
            index.answers[key] = path.read_bytes()
    index.answers["/library.git/info/refs?service=git-upload-pack"] = index.answers[
        "/library.git/info/refs"
    ]
    return f"library @ git+https://git.example.com/library.git@{git('rev-parse', 'HEAD')}"
