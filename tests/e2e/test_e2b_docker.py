from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builder import registry
from builder.project import Project
from builder.targets.adapters import connect
from builder.workflow import PLAN, BuildRequest, Context, Prepared, execute
from builder.workflow.carry_out import carry_out
from tests.support import engine
from tests.support.e2b_server import DockerSteps, Server
from tests.support.e2b_server.sandboxes import ContainerService
from tests.support.prechecks import lightened
from tests.support.runs import until

ODD = "$HOME ${HOME} $(id) `id` %s $"
# What E2B's builder evaluates, and what it gives to `user` or opens when a build ends.
CHANGED = f"""
[env]
ODD = "{ODD.replace("$", "$$")}"
PATH = "/opt/tools/bin:$PATH"
[[files]]
source = "tool.sh"
target = "/home/user/tool"
mode = "0600"
[[files]]
source = "tool.sh"
target = "/usr/local/bin/tool"
mode = "0755"
[[verify]]
name = "variables and files"
code = '''
import os, stat
print(os.environ["ODD"])
path = os.environ["PATH"].split(":")
print(path[0] == "/opt/tools/bin" and "/usr/local/bin" in path)
for path in ("/home/user/tool", "/usr/local/bin/tool"):
    found = os.stat(path)
    print(stat.filemode(found.st_mode), found.st_uid)
'''
stdout = '''
{ODD}
True
-rw------- 1000
-rwxrwxrwx 0
'''
"""


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.network
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "kinds",
    [
        ("data", "ml"),
        pytest.param(("data", "ml", "nlp", "vision"), marks=pytest.mark.soak),
    ],
    ids=len,
)
def test_templates_from_spec_to_running_code(
    write: Callable[..., Path],
    lead: Callable[[Server], Server],
    kinds: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The product's templates, on small packages, go through the SDK to a server that runs every
    step in Docker; their checks hold in containers made from the result, and the registry's ref
    opens one."""
    # A real code service takes long to start on a busy machine.
    monkeypatch.setattr("builder.targets.e2b.service.START_SECONDS", 600)
    rendered = lightened(write, {"data": CHANGED})
    project = Project.find(write().parent)
    names = [f"tta-{kind}-minimal" for kind in kinds]
    results = {one.variant.name: one for one in rendered if one.variant.name in names}
    steps = DockerSteps()
    with Server(steps) as server:
        lead(server)
        settings = project.targets["e2b"]
        target = connect(settings, project)
        events: list[str] = []
        context = Context(
            project=project,
            settings=settings,
            target=target,
            report=lambda event: events.append(event.text),
        )
        prepared = Prepared(request=BuildRequest(), results=results)
        done = carry_out(execute(PLAN[-1:], prepared, context), context)
        assert [outcome.error for outcome in done.outcomes] == [None] * len(kinds)
        assert len(server.state.executed) == len(set(server.state.executed))
        assert server.running == {}
        assert server.problems == []
        (data,) = server.builds("tta-data-minimal")
        assert data.machine[1]["ODD"] == ODD
        path = project.registry
        record = registry.lookup("tta-ml-minimal", target="e2b", path=path)
        levels = record.build.seconds.first_use
        assert set(levels) == {"disk", "memory"}
        assert set(record.packages) >= {"six", "attrs", "packaging", "tomli-w"}
        from e2b_code_interpreter import Sandbox

        sandbox = Sandbox.create(record.ref, timeout=900)
        try:
            until(lambda: _up(sandbox), 600)
            found = sandbox.run_code("import os, six; print(six.__name__, os.environ['HF_HOME'])")
            assert found.logs.stdout == ["six /home/user/.cache/huggingface\n"]
        finally:
            sandbox.kill()
        assert re.search(r"step 1 of \d+: RUN id -u user", "\n".join(events))


def _up(sandbox: Any) -> bool:
    try:
        sandbox.list_code_contexts()
    except Exception:  # noqa: BLE001 - a port that is not open, in whatever words
        return False
    return True


@pytest.mark.slow
@pytest.mark.docker
def test_a_code_service_whose_first_kernel_is_late_starts_again() -> None:
    """A container of the stand-in whose code service ended for good starts it again, so that a busy
    machine is not mistaken for a template without one."""
    image = engine.base_image()
    marker = "/tmp/failed-once"
    command = (
        f"if ! test -e {marker}; then touch {marker}; echo 'Application startup failed.';"
        " exec sleep infinity; fi; exec /root/.jupyter/start-up.sh"
    )
    build: Any = SimpleNamespace(
        machine=(image, {}, "root", "/"), start=(command, "curl -sf localhost:49999/health", None)
    )
    service = ContainerService(build)
    try:
        until(service.ready, 300)
        assert [context["language"] for context in service.contexts()] == ["python"]
    finally:
        service.close()
