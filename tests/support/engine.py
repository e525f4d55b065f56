"""A Docker engine for tests, which also runs steps as E2B does.

Each kind of step follows E2B's published sources (github.com/e2b-dev/infra,
`packages/orchestrator/pkg/template/build/commands`).
"""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import io
import itertools
import json
import os
import posixpath
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import docker
import filelock
import pytest
from docker.models.containers import Container

from builder.errors import EngineUnavailableError
from builder.flatten import BaseConfig, Program
from builder.precheck.connection import connect
from builder.precheck.machine import packed
from tests.support import options
from tests.support.e2b_server.steps import evaluation

SOURCES = Path(__file__).parent / "base_image"
LABEL = "template-builder-test"
# For the code service of a container, which has no envd to ask for the sandbox's variables.
WITHOUT_ENVD = {"E2B_LOCAL": "true"}


@functools.cache
def client() -> docker.DockerClient:
    """Return the engine. Skip the test if there is none, unless `--require` names docker."""
    try:
        connected, _ = connect(timeout=600)
    except EngineUnavailableError as error:
        if options.required("docker"):
            raise
        pytest.skip(error.message)
    return connected


@functools.cache
def base_image() -> str:
    """Return the image that tests build on; `make.sh` makes it if it is missing.

    Its tag is a hash of its sources, so that an outdated image is not used.
    """
    if image := options.base():
        return image
    sources = [path.read_bytes() for path in sorted(SOURCES.iterdir()) if path.is_file()]
    tag = hashlib.sha256(b"\0".join(sources)).hexdigest()[:12]
    image = f"template-test/code-interpreter:{tag}"
    # By whichever process is first, while the others wait.
    with filelock.FileLock(f"{tempfile.gettempdir()}/template-test-{tag}.lock"):
        with contextlib.suppress(docker.errors.ImageNotFound):
            client().images.get(image)
            return image
        if not shutil.which("mmdebstrap") and not options.required("docker"):
            pytest.skip("mmdebstrap is not installed, which makes the base image")
        finished = subprocess.run(
            ["bash", SOURCES / "make.sh", image],
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
    return image


@functools.cache
def opened(image: str) -> str:
    """Return a copy of an image in which everybody can write to /usr/local, as on E2B after a
    build: changing all these modes takes as long as all steps of a test."""
    name = "template-test/open"
    tag = str(client().images.get(image).id).partition(":")[2][:12]
    with filelock.FileLock(f"{tempfile.gettempdir()}/template-test-open-{tag}.lock"):
        try:
            client().images.get(f"{name}:{tag}")
        except docker.errors.ImageNotFound:
            with running(image) as container:
                assert container.exec_run(["chmod", "-R", "777", "/usr/local"]).exit_code == 0
                container.commit(name, tag)
    return f"{name}:{tag}"


@functools.cache
def buildkit() -> str:
    """Return a `docker` that builds with BuildKit: Docker 20.10 can, newer ones need buildx."""
    for folder in os.get_exec_path():
        command = Path(folder) / "docker"
        if command.exists():
            version = subprocess.run(
                [command, "--version"], capture_output=True, text=True, check=True
            )
            plugin = subprocess.run(
                [command, "buildx", "version"], capture_output=True, check=False
            )
            if "version 20.10" in version.stdout or plugin.returncode == 0:
                return str(command)
    pytest.skip("no docker command here builds with BuildKit")


def build(folder: Path, *, network: str = "none") -> str:
    """Build the Dockerfile of `folder` with BuildKit, and return the image's ID."""
    finished = subprocess.run(
        [buildkit(), "build", "--quiet", "--network", network, "--label", LABEL, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"DOCKER_BUILDKIT": "1"},
    )
    assert finished.returncode == 0, finished.stderr + (folder / "Dockerfile").read_text()
    return finished.stdout.strip()


def load_image(labels: Mapping[str, str], *, tag: str | None, created: str) -> str:
    """Load an image without files, in the format of `docker save`, and return its ID."""
    layer = packed({}).getvalue()
    layers = [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": created,
        "config": {"Labels": {**labels, "of": tag or "nobody"}},
        "rootfs": {"type": "layers", "diff_ids": layers},
    }
    manifest = {
        "Config": "config.json",
        "RepoTags": tag and [f"{tag}:latest"],
        "Layers": ["layer.tar"],
    }
    files = {"config.json": json.dumps(config), "manifest.json": json.dumps([manifest])}
    content = {name: (text.encode(), 0o644) for name, text in files.items()}
    content["layer.tar"] = (layer, 0o644)
    (image,) = client().images.load(packed(content).getvalue())
    return str(image.id)


@contextlib.contextmanager
def running(
    image: str, *, network: str = "none", tmpfs: Mapping[str, str] | None = None
) -> Iterator[Container]:
    """Yield an idle container of an image; `tmpfs` is path → mount options."""
    container = client().containers.run(
        image,
        ["infinity"],
        entrypoint="sleep",
        user="root",
        working_dir="/",
        detach=True,
        network_mode=network,
        tmpfs=dict(tmpfs or {}),
        labels={LABEL: ""},
    )
    try:
        yield container
    finally:
        container.remove(force=True)


# The PATH of a shell on E2B, which is appended to a PATH set by the template.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def home_of(user: str) -> str:
    """Return the home of an account."""
    return "/root" if user == "root" else f"/home/{user}"


class CommandError(AssertionError):
    """A command failed."""

    def __init__(self, command: str, code: int, out: str, err: str) -> None:
        super().__init__(f"{command}\n{out}{err}exit status {code}")
        self.code, self.outputs = code, {"stdout": out, "stderr": err}


class Machine:
    """A container in which steps run as on E2B."""

    def __init__(self, container: Container, base_env: Mapping[str, str]) -> None:
        self.container = container
        self.env = dict(base_env)
        self.user = "user"
        self.workdir_set: str | None = None
        self.log: list[str] = []

    @property
    def workdir(self) -> str:
        """Where commands run: the current user's home, unless a step has changed it."""
        return self.workdir_set or home_of(self.user)

    def carry_out(self, program: Program, context: Path) -> None:
        """Run every step, in order."""
        for step in program.steps:
            getattr(self, f"_{step.kind.lower()}")(step.args, context)

    def bash(
        self, command: str, *, user: str, workdir: str | None = None, env: Mapping[str, str]
    ) -> str:
        """Run a command in a login shell with only `env`; return its standard output."""
        code, out, err = self.command(command, user=user, workdir=workdir, env=env)
        if code:
            raise CommandError(command, code, out, err)
        return out

    def command(
        self,
        command: str,
        *,
        user: str,
        workdir: str | None,
        env: Mapping[str, str],
        seconds: int = 600,
    ) -> tuple[int, str, str]:
        """Run a command as `bash` does; return its exit code, standard output and errors."""
        home = home_of(user)
        variables = {"PATH": _PATH, "HOME": home, "USER": user, "LOGNAME": user} | dict(env)
        if "PATH" in env:
            variables["PATH"] += f":{_PATH}"
        pairs = [f"{name}={value}" for name, value in variables.items()]
        shell = ("timeout", str(seconds), "/bin/bash", "-l", "-c")
        found: Any = self.container.exec_run(
            # Unlike the engine, E2B does not create a missing folder.
            ["/usr/bin/env", "-i", f"--chdir={workdir or home}", *pairs, *shell, command],
            user=user,
            demux=True,
        )
        out, err = (part.decode() if part else "" for part in found.output)
        return found.exit_code, out, err

    def printed(self, command: str) -> str:
        """Return the output of a command without side effects. On a busy machine, `exec_run` loses
        output that arrives with the headers of the response, so the command is run again."""
        for _ in range(10):
            output = self.bash(f"{command} && printf .", user="root", env={})
            if output.endswith("."):
                return output[:-1]
        raise AssertionError(f"no output of {command}")

    def _run(self, args: Sequence[str], context: Path) -> None:
        user = args[1] or self.user
        self.log.append(self.bash(args[0], user=user, workdir=self.workdir_set, env=self.env))

    def _env(self, args: Sequence[str], context: Path) -> None:
        for name, value in zip(args[::2], args[1::2], strict=True):
            self.env[name] = self.printed(evaluation(value))

    def _workdir(self, args: Sequence[str], context: Path) -> None:
        folder = posixpath.join(self.workdir_set or "/", args[0])
        made = f"""
            new="{folder}"
            while [ ! -d "$(dirname "$new")" ]; do new=$(dirname "$new"); done
            [ -d "{folder}" ] || {{ mkdir -p "{folder}" && chown -R {self.user}: "$new"; }}
        """
        self.bash(made, user="root", env=self.env)
        self.workdir_set = self.printed(f'cd "{folder}" && pwd').strip()

    def _user(self, args: Sequence[str], context: Path) -> None:
        made = f"id -u {args[0]} || useradd --create-home --shell /bin/bash {args[0]}"
        self.bash(made, user="root", env=self.env)
        self.user = self.printed(f'printf "{args[0]}"')

    def _copy(self, args: Sequence[str], context: Path) -> None:
        source, target, owner, mode = (*args, "", "")[:4]
        owner = owner or self.user
        owner = owner if ":" in owner else f"{owner}:{owner}"
        place = f"/var/tmp/{hashlib.sha256(source.encode()).hexdigest()}"
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name in glob.glob(source, root_dir=context, include_hidden=True):
                tar.add(context / name, arcname=name)
        self.container.exec_run(["mkdir", "-p", f"{place}/unpack"])
        self.container.put_archive(f"{place}/unpack", archive.getvalue())
        # What has no wildcard in it; the rest was expanded by the SDK.
        parts = source.split("/")
        plain = "/".join(itertools.takewhile(lambda part: not re.search(r"[*?\[{]", part), parts))
        script = f"""
            target="{target}"; source="{os.path.normpath(f"{place}/unpack/{plain}")}"
            cd "{self.workdir}" || exit
            case "$target" in /*) ;; *) target="$(pwd)/$target";; esac
            cd "$(dirname "$source")" || exit
            entry="$(basename "$source")"
            chown -hR "{owner}" "$entry" || exit
            [ -z "{mode}" ] || [ -L "$entry" ] || chmod -R "{mode}" "$entry" || exit
            if [ -d "$entry" ] && [ ! -L "$entry" ]; then
                mkdir -p "$target" || exit
                tar -C "$entry" -cf - . \
                    | tar -C "$target" --keep-directory-symlink --no-overwrite-dir -xf -
                exit
            fi
            case "$target" in */) mkdir -p "$target";; *) mkdir -p "$(dirname "$target")";; esac
            mv "$entry" "$target"
        """
        self.bash(f"set -o pipefail\n{script}", user="root", workdir=self.workdir, env=self.env)
        self.container.exec_run(["rm", "-rf", place])

    def finalize(self) -> None:
        """Do what E2B does after the last step, before the start command."""
        made = "id -u user || useradd --create-home --shell /bin/bash user"
        # `chmod -R` would copy what has that mode already, too.
        closed = "find /usr/local /code ! -type l ! -perm 777"
        opened = f"chown -R user:user /home/user && {closed} -exec chmod 777 {{}} +"
        self.bash(f"{made}; mkdir -p /code && {opened}", user="root", env={})


# Lists everything below / except what an engine or a clock adds; hashes files newer than `since`.
_WALK = """
import hashlib, json, os, stat, sys
since, skipped = float(sys.argv[1]), tuple(sys.argv[2:])
found = {}
for folder, folders, files in os.walk("/"):
    paths = [os.path.join(folder, name) for name in (*folders, *files)]
    folders[:] = [n for n in folders if not os.path.join(folder, n).startswith(skipped)]
    for path in paths:
        if path.startswith(skipped):
            continue
        s = os.lstat(path)
        entry = [stat.S_IFMT(s.st_mode), s.st_mode & 0o7777, s.st_uid, s.st_gid]
        if stat.S_ISLNK(s.st_mode):
            entry = [entry[0], *entry[2:], os.readlink(path)]
        elif stat.S_ISREG(s.st_mode) and s.st_ctime > since and not path.endswith(".pyc"):
            entry.append(hashlib.sha256(open(path, "rb").read()).hexdigest())
        found[path] = entry
print(json.dumps(found))
"""
_SKIPPED = (
    "/proc", "/sys", "/dev", "/run", "/tmp/", "/.dockerenv", "/etc/hostname", "/etc/hosts",
    "/etc/resolv.conf", "/etc/mtab", "/var/log", "/var/cache", "/var/lib/apt", "/var/lib/dpkg",
)  # fmt: skip


def tree(container: Container, since: float) -> dict[str, list[Any]]:
    """Return path → type, mode, owner, group and content of everything in a container."""
    found: Any = container.exec_run(["python3", "-c", _WALK, str(since), *_SKIPPED], user="root")
    assert found.exit_code == 0, found.output
    parsed: dict[str, list[Any]] = json.loads(found.output)
    return parsed


def differences(one: Mapping[str, list[Any]], other: Mapping[str, list[Any]]) -> list[str]:
    """Return the differences of two trees; a hash that only one side has is not compared."""
    found = []
    for path in sorted({*one, *other}):
        a, b = one.get(path), other.get(path)
        if a is None or b is None or a[:4] != b[:4] or (len(a) == len(b) and a != b):
            found.append(f"{path}: {a} / {b}")
    return found


def moment() -> float:
    """Return the time a second ago, to allow for coarse clocks."""
    return time.time() - 1


def config_of(image: str) -> BaseConfig:
    found = client().images.get(image).attrs["Config"]
    return BaseConfig(
        env=dict(pair.split("=", 1) for pair in found["Env"] or [f"PATH={_PATH}"]),
        user={"": "root", "0": "root"}.get(found["User"], found["User"]),
        workdir=found["WorkingDir"].rstrip("/") or "/",
        entrypoint=tuple(found["Entrypoint"] or ()),
        command=tuple(found["Cmd"] or ()),
    )
