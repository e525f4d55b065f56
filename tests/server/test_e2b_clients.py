from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.e2b_server import Server

PACKAGES = ("e2b@2.51.0", "@e2b/cli@2.19.0")
SCRIPT = """
import { Template, Sandbox } from 'e2b'
const template = Template({ fileContextPath: process.argv[2] })
  .fromImage('python:3.13')
  .copy('thing.txt', '/opt/thing.txt', { user: 'root:root', mode: 0o644 })
  .runCmd('echo hello', { user: 'root' })
  .setEnvs({ A: '1' })
  .setStartCmd('serve', 'true')
const lines = []
const info = await Template.build(template, 'from-node', {
  tags: ['v1'], cpuCount: 2, memoryMB: 1024, onBuildLogs: (line) => lines.push(line.message),
})
const before = await Template.getTags('from-node')
await Template.assignTags('from-node:v1', ['default'])
const sandbox = await Sandbox.create('from-node', { metadata: { who: 'node' } })
const listed = await Sandbox.list({ query: { metadata: { who: 'node' } } }).nextItems()
await sandbox.kill()
console.log(JSON.stringify({
  info, lines, exists: await Template.exists('from-node'), before: before.map((one) => one.tag),
  sandbox: sandbox.sandboxId, listed: listed.map((one) => one.sandboxId),
}))
"""


@pytest.mark.slow
@pytest.mark.needs("npm")
@pytest.mark.network
def test_other_clients_of_e2b_agree_with_the_server(tmp_path: Path) -> None:
    """E2B's own JavaScript SDK builds, tags, lists and ends things on the server, its command
    lists and deletes them, and what Python's SDK builds of the same files comes from the cache."""
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--silent", *PACKAGES],
        check=True,
        cwd=tmp_path,
        capture_output=True,
    )
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "thing.txt").write_text("thing\n")
    (tmp_path / "context" / "thing.txt").chmod(0o644)
    (tmp_path / "script.mjs").write_text(SCRIPT)
    with Server() as server:
        variables = os.environ | server.environment | {"NO_COLOR": "1"}

        def run(*words: str) -> str:
            found = subprocess.run(
                words, capture_output=True, text=True, check=False, cwd=tmp_path, env=variables
            )
            assert found.returncode == 0, found.stdout + found.stderr
            return found.stdout

        told = json.loads(run("node", "script.mjs", str(tmp_path / "context")))
        (build,) = server.builds("from-node")
        assert (told["info"]["templateId"], told["info"]["buildId"]) == (
            build.template_id,
            build.id,
        )
        assert {"[builder 2/3] [stdout]: line 0 of RUN"} < set(told["lines"])
        assert told["exists"] is True
        assert told["before"] == ["v1"]
        assert server.tags("from-node") == {"v1": build.id, "default": build.id}
        assert told["listed"] == [told["sandbox"]]
        assert server.running == {}

        import e2b

        template = (
            e2b.Template(file_context_path=str(tmp_path / "context"))
            .from_image("python:3.13")
            .copy("thing.txt", "/opt/thing.txt", user="root:root", mode=0o644)
            .run_cmd("echo hello", user="root")
            .set_envs({"A": "1"})
            .set_start_cmd("serve", "true")
        )
        lines: list[str] = []
        e2b.Template.build(
            template,
            "from-python",
            on_build_logs=lambda line: lines.append(line.message),
            api_key=server.key,
            api_url=server.url,
        )
        assert sum(line.startswith("CACHED [builder ") for line in lines) == 3

        tool = str(tmp_path / "node_modules" / ".bin" / "e2b")
        listed = json.loads(run(tool, "template", "list", "--format", "json"))
        assert {one["aliases"][0] for one in listed} == {"from-node", "from-python"}
        run(tool, "template", "delete", "-y", "from-node")
        assert [one.name for one in server.state.templates.values()] == ["from-python"]
        (tmp_path / "context" / "Dockerfile").write_text("FROM python:3.13\nRUN echo more\n")
        run(tool, "template", "create", "from-command", "--path", str(tmp_path / "context"))
        assert [one.status for one in server.builds("from-command")] == ["ready"]
        assert server.problems == []
