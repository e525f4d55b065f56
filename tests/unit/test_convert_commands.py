from __future__ import annotations

from typing import Any

import pytest

from builder.convert import convert
from tests.support.conversions import Files, converted

FROM = "FROM e2bdev/code-interpreter:latest\n"


def runs(text: str, files: dict[str, str] | None = None) -> tuple[list[dict[str, Any]], list[str]]:
    """The commands that the instructions become, and the notes."""
    document, notes = converted(f"{FROM}{text}", "Dockerfile", files)
    return document.get("run", []), notes


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("RUN make && make install", "make && make install"),
        ('RUN ["make", "all targets"]', "make 'all targets'"),
        ("RUN a || b && c", "a || b && c"),
        ("RUN set -e; make; pip install idna; echo done > /x", "set -e && make"),
        (
            "RUN curl -s https://x.example | tar xz -C /opt",
            "curl -s https://x.example | tar xz -C /opt",
        ),
        ("RUN if true; then make; fi", "if true; then make; fi"),
        ("RUN 'unclosed", "'unclosed"),
        ('SHELL ["/bin/bash", "-c"]\nRUN make', "/bin/bash -c make"),
        ("WORKDIR /src\nRUN make", "mkdir -p /src && cd /src\nmake"),
        ("WORKDIR /home/user\nRUN make", "cd /home/user\nmake"),
        ("RUN <<EOF\nmake\nmake install\nEOF", "make && make install"),
        ("RUN cat <<EOF > /x\nhello\nEOF", "cat <<EOF > /x\nhello\nEOF"),
    ],
)
def test_command(text: str, command: str) -> None:
    """What installs no package is a command, in the folder and shell of the Dockerfile."""
    tables, notes = runs(text)
    assert tables[0]["command"] == command
    assert notes == []


def test_state_of_the_shell_reaches_the_commands_after_an_installation() -> None:
    """`cd` and `export` are repeated where an installation between them is taken out."""
    tables, notes = runs("RUN cd /src && export A=1 && make && pip install idna && ./test\n")
    assert [table["command"] for table in tables] == [
        "cd /src && export A=1 && make",
        "cd /src && export A=1 && ./test",
    ]
    assert [table.get("before") for table in tables] == ["packages", None]
    assert notes == []


def test_when_a_command_runs() -> None:
    """A command before `pip install` runs before the packages, unless files were copied before it."""
    text = (
        "RUN first\nRUN pip install idna\nRUN second\nCOPY a /a\nRUN third\nRUN pip install six\n"
    )
    tables, _ = runs(text, {"a": ""})
    assert [table.get("before") for table in tables] == ["packages", "packages", None]


def test_who_runs_a_command() -> None:
    """USER says who runs the commands after it; another account than a sandbox has is a note."""
    tables, notes = runs("RUN a\nUSER user\nRUN b\nUSER 0\nRUN c\nUSER app\nRUN d\n")
    assert [table.get("user") for table in tables] == [None, "user", None, None]
    assert notes == [
        "Dockerfile:7: `USER app`: a sandbox has the users `root` and `user`; commands run as `root`"
    ]


def test_arguments_of_the_build() -> None:
    """A command gets the arguments that it uses, with the values that the file gives them."""
    tables, notes = runs("ARG V=1.2 W=3\nENV X=4\nRUN fetch $V ${X}\nRUN fetch --network=none\n")
    assert tables == [
        {"command": "fetch $V ${X}", "env": {"V": "1.2"}},
        {"command": "fetch --network=none"},
    ]
    assert notes == []
    assert runs("RUN --network=none make\n")[0] == [{"command": "make", "network": False}]


def test_repository_of_packages() -> None:
    """Once a command adds a repository, what apt-get installs stays in the command, too."""
    text = (
        "RUN apt-get update && apt-get install -y --no-install-recommends curl \\\n"
        " && curl -fsSL https://x.example/key.asc > /etc/apt/keyrings/x.asc \\\n"
        " && apt-get update && apt-get install -y x && rm -rf /var/lib/apt/lists/*\n"
    )
    document, notes = converted(f"{FROM}{text}", "Dockerfile")
    assert document["system"] == {"packages": ["curl"]}
    assert document["run"] == [
        {
            "command": "curl -fsSL https://x.example/key.asc > /etc/apt/keyrings/x.asc"
            " && apt-get update && apt-get install -y x"
        }
    ]
    assert notes[0].endswith(
        "stays a command, as do the packages installed after it; [[system.repository]] says the same,"
        " with a key that is checked"
    )


def test_virtual_environment() -> None:
    """Packages of a virtual environment are those of the image, and nothing else is left of it."""
    text = (
        "ENV VIRTUAL_ENV=/opt/venv\nRUN python3 -m venv /opt/venv\n"
        'ENV PATH="/opt/venv/bin:$PATH"\nRUN /opt/venv/bin/pip install idna\n'
        "RUN . /opt/venv/bin/activate && pip install six\n"
    )
    document, notes = converted(f"{FROM}{text}", "Dockerfile")
    assert document == {"python": {"packages": ["idna", "six"]}}
    assert notes == [
        "Dockerfile:3: `RUN python3 -m venv /opt/venv`: packages are installed into the image's own"
        " Python; what would start that of the virtual environment is left out"
    ]


@pytest.mark.parametrize(
    "command",
    [
        "pip install -e .",
        "pip install /opt/lib",
        "pip install --target /x idna",
        "pip install 'git+https://code.example.com/lib@main'",
        "npm ci",
        "uv sync --frozen",
    ],
)
def test_installation_that_no_lock_has(command: str) -> None:
    """What is installed from a folder or a branch stays a command."""
    assert runs(f"RUN {command}\n") == ([{"command": command}], [])


def test_packages_of_npm() -> None:
    """What npm installs for everybody is [node], unless a command before it adds where Node.js is."""
    install = "npm install -g typescript@5 @types/node"
    document, notes = converted(f"{FROM}RUN {install}\n", "Dockerfile")
    assert document == {"node": {"packages": ["typescript@5", "@types/node"]}}
    assert notes == []
    tables, _ = runs(f"RUN curl https://nodesource.example | bash - && {install}\n")
    assert tables == [{"command": f"curl https://nodesource.example | bash - && {install}"}]


@pytest.mark.parametrize("command", ["uv sync --frozen --no-dev", "poetry install"])
def test_dependencies_of_a_project(command: str) -> None:
    """The dependencies of a pyproject.toml that was copied are packages."""
    text = f"{FROM}WORKDIR /app\nCOPY pyproject.toml uv.lock ./\nRUN {command}\n"
    files = {"pyproject.toml": '[project]\ndependencies = ["idna"]\n', "uv.lock": ""}
    document, notes = converted(text, "Dockerfile", files)
    assert document["python"] == {"packages": ["idna"]}
    assert "run" not in document
    assert notes == [
        f"Dockerfile:4: `RUN {command}`: packages are installed into the image's own Python, and not"
        " the project itself"
    ]


def test_account_of_a_sandbox() -> None:
    """A command that makes the account which every template has, or its home, is left out."""
    assert runs("RUN useradd --create-home user\nRUN mkdir -p /home/user\n") == ([], [])
    assert runs("RUN mkdir /home/user/x\n")[0] == [{"command": "mkdir /home/user/x"}]


@pytest.mark.parametrize(
    ("text", "download"),
    [
        ("ADD https://x.example/a.csv /data/", {"target": "/data/a.csv"}),
        (
            f"ADD --checksum=sha256:{'0' * 64} --chmod=755 https://x.example/a.csv /bin/a",
            {"target": "/bin/a", "mode": "0755", "sha256": "0" * 64},
        ),
        ("RUN curl -fsSL https://x.example/a.csv -o /data/b", {"target": "/data/b"}),
        (
            "RUN curl -fsSLo /bin/a https://x.example/a.csv && chmod +x /bin/a",
            {"target": "/bin/a", "mode": "0755"},
        ),
        ("WORKDIR /data\nRUN curl -LO https://x.example/a.csv", {"target": "/data/a.csv"}),
        ("RUN wget -q -O /data/b https://x.example/a.csv", {"target": "/data/b"}),
        ("RUN wget https://x.example/a.csv -P /data", {"target": "/data/a.csv"}),
    ],
)
def test_download(text: str, download: dict[str, str]) -> None:
    """ADD of an address, and a command that only fetches a file, is a download."""
    document, notes = converted(f"{FROM}{text}\n", "Dockerfile")
    assert document["download"] == [{"url": "https://x.example/a.csv"} | download]
    assert "run" not in document
    assert notes == []


@pytest.mark.parametrize("names", [("a.csv",), ("a.csv", "b.csv")])
@pytest.mark.parametrize(
    "line",
    [
        "ADD https://x.example/a.csv /data/",
        "RUN curl -fsSL https://x.example/a.csv -o /data/a.csv",
    ],
)
def test_download_replaces_a_file_of_a_folder(line: str, names: tuple[str, ...]) -> None:
    """A download at a file of a folder replaces it, and the folder if that has no other file."""
    text = f"{FROM}COPY data /data\n{line}\n"
    draft = convert(text.encode(), "Dockerfile", Files({f"data/{name}": "1" for name in names}))
    assert sorted(draft.files) == [f"/data/{name}" for name in names[1:]]
    assert ("files" in draft.document) is (len(names) > 1)
    assert draft.document["download"] == [
        {"url": "https://x.example/a.csv", "target": "/data/a.csv"}
    ]


def test_file_of_a_folder_replaces_a_download() -> None:
    """A folder that is copied later replaces a download to one of its files, with a note."""
    text = (
        f"{FROM}ADD https://x.example/a.csv /data/\nADD https://x.example/c.csv /data/\n"
        "COPY data /data\n"
    )
    draft = convert(text.encode(), "Dockerfile", Files({"data/a.csv": "1", "data/b.csv": "2"}))
    assert draft.document["download"] == [
        {"url": "https://x.example/c.csv", "target": "/data/c.csv"}
    ]
    assert draft.document["files"] == [{"source": "data/", "target": "/data"}]
    assert [str(note) for note in draft.conversion("demo").notes] == [
        "Dockerfile:4: `COPY data /data`: its `/data/a.csv` replaces the download of"
        " https://x.example/a.csv"
    ]


def test_folders() -> None:
    """COPY of a folder copies what is in it, with the owner and modes of the flags."""
    text = (
        "WORKDIR /srv\nCOPY app app/\nCOPY --chown=1000:1000 --chmod=750 app/lib /opt/lib\n"
        "COPY --chown=web app /home/user/app\nCOPY a* /x/\n"
    )
    files = {
        "app/a.py": "1",
        "app/lib/b.py": "2",
        "a.txt": "3",
        "app/key": "-----BEGIN PRIVATE KEY-----",
    }
    document, notes = converted(f"{FROM}{text}", "Dockerfile", files)
    assert document["files"] == [
        {"source": "tools/srv/app/", "target": "/srv/app"},
        {
            "source": "tools/opt/lib/",
            "target": "/opt/lib",
            "mode": "0750",
            "owner": "user",
            "folder-mode": "0750",
        },
        {"source": "tools/home/user/app/", "target": "/home/user/app"},
        {"source": "tools/x/a.txt", "target": "/x/a.txt"},
        {"source": "tools/x/", "target": "/x"},
    ]
    assert document["workdir"] == {"path": "/srv"}
    assert notes == [
        "Dockerfile:3: `COPY app app/`: `app/key` holds a password, a token or a key",
        "Dockerfile:5: `COPY --chown=web app /home/user/app`: the account `web` may not exist yet when"
        " files are copied: it is `user`'s",
        "Dockerfile:5: `COPY --chown=web app /home/user/app`: `app/key` holds a password, a token or a"
        " key",
        "Dockerfile:6: `COPY a* /x/`: `app/key` holds a password, a token or a key",
    ]
