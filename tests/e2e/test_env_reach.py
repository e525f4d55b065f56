from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.lock.base_image import BaseImage
from builder.project import Project
from builder.workflow.base_variables import variables_of
from tests.conftest import ROOT, Command
from tests.support import engine
from tests.support.content_server import tar_of
from tests.support.prechecks import SERVICE, write_project

pytestmark = [pytest.mark.docker, pytest.mark.network]

# A command of `user` as E2B runs it: a login shell that has what the sandbox was created with alone.
COMMAND = """
import os, subprocess
def command(line, **variables):
    given = [f"{name}={value}" for name, value in variables.items()]
    words = ["runuser", "-u", "user", "--", "env", "-i", "HOME=/home/user", *given]
    done = subprocess.run([*words, "/bin/bash", "-l", "-c", line], capture_output=True, text=True)
    return (done.stdout + done.stderr).strip()
"""


def check(name: str, code: str, stdout: str) -> str:
    values = (f"{key} = {json.dumps(value)}\n" for key, value in
              (("name", name), ("code", COMMAND + code), ("stdout", stdout)))  # fmt: skip
    return "[[verify]]\n" + "".join(values)


# A hub of one repository: each revision has one file, which holds the revision's name.
HUB = """
import http.server, threading, hashlib
class Hub(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        revision = self.path.split("/")[4]
        commit = hashlib.sha1(revision.encode()).hexdigest()
        self.send_response(200)
        self.send_header("ETag", f'"{commit}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(revision)))
        self.end_headers()
        return revision.encode()
    def do_GET(self):
        self.wfile.write(self.do_HEAD())
    def log_message(self, *arguments):
        pass
hub = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=hub.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = endpoint = f"http://127.0.0.1:{hub.server_port}"
from huggingface_hub import hf_hub_download
def as_root(repository, revision):
    return open(hf_hub_download(repository, "file", revision=revision)).read()
def as_user(repository, revision):
    code = "from huggingface_hub import hf_hub_download as get; import sys;"
    code += "print(open(get(*sys.argv[1:3], revision=sys.argv[3])).read())"
    words = f"python3 -W ignore -c '{code}' {repository} file {revision}"
    return command(words, HF_ENDPOINT=endpoint)
"""


ODD = 'it\'s "quoted" $HOME `id` \\n  ${X}\\'
BASE_ENV = 'BOTH = "base"\nBASE = "base"\nPATH = "/opt/base/bin:$PATH"\n'
LEAF_ENV = (
    f'BOTH = "leaf"\nODD = {json.dumps(ODD.replace("$", "$$"))}\n'
    'PATH = "/opt/leaf/bin:${PATH}"\nBASE = "$BASE"\n'
)


def checks_of_variables() -> str:
    look = 'python3 -c \'import os; print([os.environ[n] for n in ("BOTH", "ODD", "BASE")])\''
    paths = "/opt/leaf/bin:/opt/base/bin:/usr/local/"
    ours, given = ["leaf", ODD, "base"], ["given", "", "base"]
    return (
        check("code", "print([os.environ[n] for n in ('BOTH', 'ODD', 'BASE')])", repr(ours))
        + check("command", f"print(command({look!r}))", repr(ours))
        + check("sudo", f"print(command('sudo ' + {look!r}))", repr(ours))
        + check("given", f"print(command({look!r}, BOTH='given', ODD=''))", repr(given))
        + check("both", f"print(command('sudo ' + {look!r}, BOTH='given', ODD=''))", repr(given))
        + check(
            "path",
            f"print([path.startswith({paths!r}) for path in"
            " (os.environ['PATH'], command('echo $PATH'), command('sudo printenv PATH'))])",
            "[True, True, True]",
        )
    )


def check_of_caches() -> str:
    script = (
        "print(as_root('a/root', 'one'), as_user('a/root', 'one'), as_user('a/root', 'two'))\n"
        "print(as_user('a/user', 'one'), as_root('a/user', 'one'), as_root('a/user', 'two'))\n"
        "print(as_user('a/user', 'two'), as_user('a/user', 'three'), sorted({os.stat(x).st_uid"
        " for x, *_ in os.walk(os.environ['HF_HOME'])}))"
    )
    return check("one cache", HUB + script, "one one two\none one two\ntwo three [0, 1000]")


def test_engine_gives_the_variables_of_an_image(tmp_path: Path) -> None:
    """The Docker engine of this machine gives the variables of an image that no registry gives."""
    docker, project = engine.client(), Project(root=tmp_path)
    absent, own = (BaseImage(reference=f"template-test/{n}:1", digest=None) for n in ("no", "env"))
    archive = tar_of({"file": ""}, mode="w")
    docker.api.import_image_from_data(
        archive, repository="template-test/env", tag="1", changes=["ENV A=b C=d=e"]
    )
    try:
        variables = variables_of(own, project)
    finally:
        docker.images.remove(own.reference)
    assert variables is not None
    assert {name: variables.get(name) for name in ("A", "C")} == {"A": "b", "C": "d=e"}
    assert variables_of(absent, project) is None


@pytest.mark.slow
@pytest.mark.parametrize("level", [pytest.param("none", marks=pytest.mark.soak), "disk"])
def test_root_and_user_have_the_same_variables_and_caches(
    write: Callable[..., Path],
    command: Command,
    shared: Path,
    level: str,
) -> None:
    """A template's variables are, to the character, in code, in the commands of `user` and below
    sudo, the leaf's before its parent's, PATH in front of the image's, and what a sandbox was created
    with goes before both; of huggingface_hub's one cache, whoever of root and `user` was there
    first, the other reads what is there and adds to it."""
    variants = (ROOT / "variants" / "_base.toml").read_text()
    env = variants[variants.index("[env]") : variants.index("[resources]")]
    folder = write_project(
        write,
        '[python]\npackages = ["huggingface_hub"]\n'
        f'[warmup]\nlevel = "{level}"\nimports = ["huggingface_hub"]\n'
        f"[env]\n{LEAF_ENV}" + checks_of_variables() + check_of_caches(),
        name=f"reach-{level}",
        base=env + BASE_ENV + SERVICE,
        known=shared / "known",
    )
    done = command("precheck", cwd=folder)
    assert done.returncode == 0, done.stderr
