from __future__ import annotations

import pytest

from builder.system.variables import expand
from tests.support.conversions import converted

FROM = "FROM e2bdev/code-interpreter:latest\n"
COMMAND = "a spec has no key for a command"


def test_packages_of_commands() -> None:
    """Packages that RUN installs are taken over, and what only cleans up is left out."""
    text = f"""\
{FROM}ARG VERSION=3.6
RUN set -ex; apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y \\
    --no-install-recommends "curl" git=1:2.0-1 && rm -rf /var/lib/apt/lists/*
RUN sudo apt update -qq
RUN pip3 install --no-cache-dir "idna==${{VERSION}}" 'six>=1' > /dev/null 2>&1
RUN ["python3", "-m", "pip", "install", "attrs"]
RUN uv pip install --system tomli; pip cache purge
"""
    assert converted(text, "Dockerfile") == (
        {
            "system": {"packages": ["curl", "git=1:2.0-1"]},
            "python": {"packages": ["idna==3.6", "six>=1", "attrs", "tomli"]},
        },
        [],
    )


@pytest.mark.parametrize(
    ("image", "base", "service"),
    [
        ("e2bdev/code-interpreter:latest", None, False),
        ("e2bdev/code-interpreter:1.2", {"image": "e2bdev/code-interpreter:1.2"}, True),
        ("python:3.12-slim", {"image": "python:3.12-slim", "python": ">=3.12"}, False),
        ("--platform=linux/amd64 acme/base", {"image": "acme/base"}, False),
    ],
)
def test_base_image(image: str, base: dict[str, str] | None, service: bool) -> None:
    """The image of FROM is the base; E2B's own needs no line, and another tag of it its service."""
    document, notes = converted(f"FROM {image}\nRUN pip install idna\n", "Dockerfile")
    assert document.get("base") == base
    assert ("service" in document) is service
    assert notes == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "FROM ubuntu:22.04",
            "a base image needs python3 and pip: this spec begins with E2B's instead",
        ),
        (
            "FROM python:3.12-alpine3.20",
            "Alpine has no apt-get: this spec begins with `python:3.12`",
        ),
    ],
)
def test_base_image_on_which_no_template_can_be_built(line: str, reason: str) -> None:
    """A base image without what every template needs is replaced, with a note."""
    _, notes = converted(f"{line}\nRUN pip install idna\n", "Dockerfile")
    assert notes == [f"Dockerfile:1: `{line}`: {reason}"]


def test_variables() -> None:
    """ENV becomes [env]: variables of the file are expanded, the image's PATH stays a reference."""
    text = f"""\
{FROM}ARG ROOT=/opt
ENV HOME_DIR=$ROOT/app PRICE='$5' MODE="very fast"
ENV PATH=$HOME_DIR/bin:$PATH
ENV PATH="/x:${{PATH}}" LIBS=$LD_LIBRARY_PATH
"""
    document, notes = converted(text, "Dockerfile")
    assert document["env"] == {
        "HOME_DIR": "/opt/app",
        "PRICE": "$$5",
        "MODE": "very fast",
        "PATH": "/x:/opt/app/bin:${PATH}",
    }
    assert notes == [
        'Dockerfile:5: `ENV PATH="/x:${PATH}" LIBS=$LD_LIBRARY_PATH`: `LIBS` uses a variable that this'
        " file does not set; if the base image sets it, write the same in [env]"
    ]


def test_variable_that_uses_path() -> None:
    """A value keeps the PATH that it had in the Dockerfile: an ENV sees the values before it."""
    text = f"""\
{FROM}ENV PATH=/a:$PATH
ENV Q=$PATH
ENV PATH=/b:$PATH R=$PATH
ENV NEW=1 OTHER=$NEW
"""
    document, notes = converted(text, "Dockerfile")
    expected = {"Q": "/a:${PATH}", "R": "/a:${PATH}", "PATH": "/b:/a:${PATH}", "NEW": "1"}
    assert document["env"] == expected
    # `${PATH}` is the value so far, which must still be the base image's.
    values: dict[str, str] = {}
    for name, value in document["env"].items():
        values[name] = expand(value, values)
    assert values == expected
    assert notes == [
        "Dockerfile:5: `ENV NEW=1 OTHER=$NEW`: `OTHER` uses a variable that this file does not set;"
        " if the base image sets it, write the same in [env]"
    ]


def test_secrets_are_named_by_their_place() -> None:
    """No value of a secret reaches the spec or a comment, also by way of other variables."""
    text = f"""\
{FROM}ARG NPM_TOKEN=hunter2
ENV DB_PASSWORD=hunter3 REGION=eu
ENV ADDRESS=https://$NPM_TOKEN.example.com
RUN pip install --index-url https://robot:hunter4@packages.example.com/simple idna
RUN curl -H "Authorization: Bearer hunter5" https://example.com
RUN curl -u robot:hunter6 https://example.com
RUN git clone https://hunter7@example.com/x.git
CMD ["serve", "--password", "hunter8"]
HEALTHCHECK CMD curl http://localhost:80/
LABEL token=hunter9
"""
    document, notes = converted(text, "Dockerfile")
    assert document == {"env": {"REGION": "eu"}, "python": {"packages": ["idna"]}}
    assert "hunter" not in "\n".join(notes)
    assert [note.partition(": ")[0] for note in notes] == [
        f"Dockerfile:{number}" for number in (2, 3, 4, 5, 6, 7, 8, 9, 11)
    ]
    assert (
        notes[0] == "Dockerfile:2: `NPM_TOKEN` is a secret: pass it to a sandbox when you open it"
    )


def test_files() -> None:
    """COPY of files becomes [[files]], from where they are to where WORKDIR says, with their mode."""
    text = f"""\
{FROM}WORKDIR /srv
COPY a.py .
COPY --chmod=600 a.py conf/*.ini /etc/app/
COPY run.sh /usr/local/bin/run
COPY a.py /srv
COPY nowhere.txt /x
COPY --from=builder /x /y
COPY <<EOF /etc/motd
hello
EOF
"""
    files = {"a.py": "1", "conf/x.ini": "2", "conf/deep/y.ini": "3", "run.sh": "4"}
    document, notes = converted(text, "Dockerfile", files, ("run.sh",))
    assert document["files"] == [
        {"source": "tools/etc/app/a.py", "target": "/etc/app/a.py", "mode": "0600"},
        {"source": "tools/etc/app/x.ini", "target": "/etc/app/x.ini", "mode": "0600"},
        {"source": "tools/usr/local/bin/run", "target": "/usr/local/bin/run", "mode": "0755"},
        {"source": "tools/srv/a.py", "target": "/srv/a.py"},
        {"source": "tools/etc/motd", "target": "/etc/motd"},
    ]
    assert notes == [
        "Dockerfile:7: `COPY nowhere.txt /x`: there is no `nowhere.txt` here",
        "Dockerfile:8: `COPY --from=builder /x /y`: there is no other stage or image `builder` to copy"
        " from",
    ]


def test_requirements_that_are_copied() -> None:
    """`pip install -r` finds the file by where it was copied or mounted."""
    text = f"""\
{FROM}WORKDIR /app
COPY requirements/ reqs/
COPY dev.txt /tmp/
RUN pip install -r reqs/base.txt
RUN pip install -r /tmp/dev.txt -r /tmp/none.txt
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,source=more.txt,target=m.txt \\
    pip install -r m.txt
"""
    files = {"requirements/base.txt": "idna\n", "dev.txt": "six\n", "more.txt": "attrs\n"}
    document, notes = converted(text, "Dockerfile", files)
    assert document["python"] == {"packages": ["idna", "six", "attrs"]}
    assert notes[-1].endswith("`/tmp/none.txt` is no file that the Dockerfile copies from here")


def test_service() -> None:
    """CMD with a HEALTHCHECK becomes a service."""
    text = (
        'FROM python:3.13\nCMD ["python", "app.py"]\nHEALTHCHECK CMD curl -f http://0.0.0.0:80/h\n'
    )
    document, notes = converted(text, "Dockerfile")
    assert document["service"] == {
        "command": ["python", "app.py"],
        "ready-url": "http://localhost:80/h",
    }
    assert notes == []


@pytest.mark.parametrize(
    ("text", "ready"),
    [
        ("EXPOSE 8000/tcp", {"ready-port": 8000}),
        ("HEALTHCHECK CMD nc -z localhost 8000 || exit 1", {"ready-port": 8000}),
        ("HEALTHCHECK CMD wget -q http://127.0.0.1:8000", {"ready-url": "http://localhost:8000/"}),
        (
            'HEALTHCHECK CMD ["test", "-e", "/run/up"]',
            {"ready-command": ["/bin/sh", "-c", "test -e /run/up"]},
        ),
    ],
)
def test_when_a_service_is_ready(text: str, ready: dict[str, object]) -> None:
    """What says that the service is ready is taken from HEALTHCHECK, else from EXPOSE."""
    text = f'FROM python:3.13\nENTRYPOINT ["python"]\nCMD ["app.py"]\n{text}\n'
    document, _ = converted(text, "Dockerfile")
    assert document["service"] == {"command": ["python", "app.py"]} | ready


def test_service_without_a_sign_that_it_is_ready() -> None:
    """A command alone is a note, unless it waits for somebody who types."""
    _, notes = converted("FROM python:3.13\nCMD serve\n", "Dockerfile")
    assert notes == [
        "Dockerfile:2: `CMD serve`: nothing says when it is ready: write [service] with this command"
        " and a ready-port"
    ]
    for command in ("bash", '["python3"]'):
        assert converted(f"FROM python:3.13\nCMD {command}\n", "Dockerfile")[1] == []


def test_only_the_last_stage_counts() -> None:
    """Stages that the last one does not begin with are left out; those it begins with are not."""
    text = """\
FROM golang:1 AS tool
RUN go build
FROM python:3.13 AS common
RUN pip install idna
FROM common
RUN pip install six
"""
    document, notes = converted(text, "Dockerfile")
    assert document["base"]["image"] == "python:3.13"
    assert document["python"]["packages"] == ["idna", "six"]
    assert notes == []
