from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.flatten import flatten
from tests.conftest import Command
from tests.support import engine
from tests.support.engine import config_of

pytestmark = [pytest.mark.docker, pytest.mark.network]

_COMPILED = """
import importlib.metadata, importlib.util, json, pathlib
files = importlib.metadata.distribution("pygments").locate_file("pygments").rglob("*.py")
lacking = [str(f) for f in files if not pathlib.Path(importlib.util.cache_from_source(f)).exists()]
print(json.dumps(lacking))
"""


def test_packages_larger_than_tmp(
    write: Callable[..., Path], command: Command, tmp_path: Path
) -> None:
    """In a machine whose /tmp is a tmpfs smaller than the packages, as E2B's is, the install steps
    unpack them on the disk, compile every module and leave no temporary file."""
    base = engine.base_image()
    project = write(
        _base=f'schema = 1\n[base]\nimage = "{base}"\npython = ">=3.11"\n',
        light='schema = 1\nname = "light"\nextends = "_base"\n[python]\npackages = ["pygments"]\n',
    ).parent
    rendered = command("render", cwd=project)
    assert rendered.returncode == 0, rendered.stderr
    context = project / "generated" / "light"
    files = [str(path.relative_to(context)) for path in context.rglob("*") if path.is_file()]
    program = flatten((context / "Dockerfile").read_text(), files=files)
    with engine.running(base, network="host", tmpfs={"/tmp": "size=1m"}) as container:
        machine = engine.Machine(container, config_of(base).env)
        machine.env["SSL_CERT_FILE"] = "/etc/ssl/certs/ca-certificates.crt"
        machine.carry_out(program, context)
        printout = machine.bash(f"python3 -c '{_COMPILED}'", user="user", env={})
        assert json.loads(printout) == []
        left = machine.bash("ls /tmp /opt/template", user="root", env={}).split()
        assert left == ["/opt/template:", "requirements", "uv", "warmup.py", "/tmp:"]
