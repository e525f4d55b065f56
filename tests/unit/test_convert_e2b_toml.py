from __future__ import annotations

from builder.convert import convert
from tests.support.conversions import Files, converted

DOCKERFILE = "FROM e2bdev/code-interpreter:latest\nRUN pip install idna\n"


def test_configuration_of_e2b() -> None:
    """The Dockerfile that is named is converted; resources are taken over, IDs are notes."""
    text = """\
# This is a config for E2B sandbox template.
team_id = "460355b3"
start_cmd = "/root/.jupyter/start-up.sh"
dockerfile = "docker/e2b.Dockerfile"
template_name = "My Tools"
template_id = "wzeca0syvtryu4bpvd9g"
memory_mb = 4_096
cpu_count = 4
read_cmd = ""
"""
    document, notes = converted(text, "e2b.toml", {"docker/e2b.Dockerfile": DOCKERFILE})
    assert document == {
        "resources": {"cpu": 4, "memory-mb": 4096},
        "python": {"packages": ["idna"]},
    }
    assert notes == [
        'e2b.toml:2: `team_id = "460355b3"`: the API key decides which team builds',
        'e2b.toml:6: `template_id = "wzeca0syvtryu4bpvd9g"`: the build on E2B is not used;'
        " `template-builder adopt` records it under a name",
        'e2b.toml:9: `read_cmd = ""`: unknown key',
    ]
    assert convert(text.encode(), "e2b.toml", Files({})).name == "My Tools"


def test_commands_of_the_configuration() -> None:
    """The start and ready commands replace what the Dockerfile starts."""
    text = (
        'start_cmd = "python /app.py"\nready_cmd = "curl -s http://localhost:8000/health"\n'
        'template_id = "x"\n'
    )
    files = {"e2b.Dockerfile": 'FROM python:3.13\nCMD ["other"]\n'}
    document, _ = converted(text, "e2b.toml", files)
    assert document["service"] == {
        "command": ["/bin/bash", "-c", "python /app.py"],
        "ready-url": "http://localhost:8000/health",
    }


def test_dockerfile_that_is_missing() -> None:
    """Without the Dockerfile, what the configuration says itself is taken over."""
    document, notes = converted('dockerfile = "x/Dockerfile"\ncpu_count = 3\n', "e2b.toml")
    assert document == {}
    assert notes == [
        'e2b.toml:1: `dockerfile = "x/Dockerfile"`: there is no file `x/Dockerfile` here',
        "e2b.toml:2: `cpu_count = 3`: 3 is neither 1 nor even",
    ]
