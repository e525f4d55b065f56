"""Models and datasets, from a hub, a URL, a folder and an object store to the lock and the store."""

from __future__ import annotations

import io
import json
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore.store
import pytest

from tests.conftest import BASE, Command
from tests.support.clouds import Place
from tests.support.content_server import ContentServer, sha256
from tests.support.e2b_server import Server
from tests.support.hub_server import HubServer, Repo, safetensors
from tests.support.object_store import Store

LEAF = 'schema = 1\nname = "leaf"\nextends = "_base"\n'
SMALL = '[[model]]\nrepo = "org/small"\n'
CONFIG = b'{"hidden_size": 8}'
WEIGHTS = safetensors()


class Locking:
    """A project, a hub and a cache of its own."""

    def __init__(self, folder: Path, hub: HubServer, command: Command, cache: Path) -> None:
        self.folder, self.hub, self._command, self.cache = folder, hub, command, cache
        self.variables = {"HF_ENDPOINT": hub.url, "TEMPLATE_BUILDER_CACHE_DIR": str(cache)}

    def spec(self, text: str = SMALL) -> None:
        (self.folder / "variants" / "leaf.toml").write_text(LEAF + text)

    def run(self, *arguments: str, **variables: str) -> Any:
        return self._command(*arguments, cwd=self.folder, **{**self.variables, **variables})

    def locked(self) -> dict[str, Any]:
        path = self.folder / "generated" / "leaf" / "template.toml"
        (model,) = tomllib.loads(path.read_text())["lock"]["stages"][-1]["models"]
        assert isinstance(model, dict)
        return model


@pytest.fixture
def small(hub: HubServer) -> Repo:
    """A small model on the hub."""
    files = {"config.json": CONFIG, "model.safetensors": WEIGHTS, "README.md": b"read me"}
    repo = hub.repos["model", "org/small"] = Repo(files)
    return repo


@pytest.fixture
def locking(
    write: Callable[..., Path], hub: HubServer, small: Repo, command: Command, tmp_path: Path
) -> Locking:
    return Locking(write(_base=BASE).parent, hub, command, tmp_path / "own cache")


def test_lock_has_the_commit_and_transfers_no_large_file(locking: Locking, small: Repo) -> None:
    """The lock has the commit of a revision and the hash of each file; only small files are fetched
    for theirs, and none again while the commit is the same."""
    locking.spec(f'{SMALL}files = ["*.safetensors", "*.json"]\n')
    for _ in range(2):
        finished = locking.run("lock")
        assert finished.returncode == 0, finished.stderr
    assert locking.hub.sent == ["config.json"]
    assert locking.locked() == {
        "kind": "model",
        "location": "org/small",
        "revision": "main",
        "commit": small.commit,
        "endpoint": locking.hub.url,
        "patterns": ["*.safetensors", "*.json"],
        "files": [
            {"path": "config.json", "sha256": sha256(CONFIG), "bytes": len(CONFIG)},
            {"path": "model.safetensors", "sha256": sha256(WEIGHTS), "bytes": len(WEIGHTS)},
        ],
    }
    small.files["config.json"] = b"{}"
    assert locking.run("lock").returncode == 0
    assert locking.locked()["commit"] == small.commit


def test_private_model_needs_a_token_which_stays_out_of_every_file(
    locking: Locking, small: Repo
) -> None:
    """A private repository is found with HF_TOKEN only; the token is in no file, log or output."""
    small.private = True
    locking.spec()
    finished = locking.run("lock", HF_TOKEN="")
    assert finished.returncode == 17
    assert (
        "error: variants/leaf.toml:5: there is no model org/small on the hub, or it is private\n\n"
        "hint: correct `repo`; for a private one, set HF_TOKEN to a token that may read it"
    ) in finished.stderr
    finished = locking.run("lock", HF_TOKEN=locking.hub.token)
    assert finished.returncode == 0, finished.stderr
    assert locking.locked()["needs-token"] is True
    built = locking.run("plan", "--target", "local", "-v", HF_TOKEN=locking.hub.token)
    assert locking.hub.tokens == {locking.hub.token}
    texts = [finished.stdout, finished.stderr, built.stdout, built.stderr]
    for folder in (locking.folder, locking.cache):
        texts += [p.read_bytes().decode("latin-1") for p in folder.rglob("*") if p.is_file()]
    assert [text for text in texts if locking.hub.token in text] == []


def test_gated_model_says_what_to_do(locking: Locking, small: Repo) -> None:
    """A repository whose owner has to accept people says so."""
    small.gated = True
    locking.spec()
    finished = locking.run("lock", HF_TOKEN="")
    assert finished.returncode == 17
    assert "the model org/small is only for those whom its owner has accepted" in finished.stderr
    assert "hint: ask for access on its page, and set HF_TOKEN" in finished.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SMALL.replace("small", "smal"), "there is no model org/smal on the hub, or it is private"),
        (f'{SMALL}revision = "v9"\n', "the model org/small has no revision 'v9'"),
        (
            f'{SMALL}files = ["*.json", "*.gguf"]\n',
            "no file of the model org/small matches '*.gguf'\n\nhint: it has README.md, config.json,"
            " model.safetensors",
        ),
        (SMALL.replace("model", "dataset"), "there is no dataset org/small on the hub"),
    ],
    ids=["repo", "revision", "files", "dataset"],
)
def test_mistakes_are_worded(locking: Locking, text: str, message: str) -> None:
    """A repository, revision or file that does not exist is an error at its line."""
    locking.spec(text)
    finished = locking.run("lock")
    assert finished.returncode == 17
    assert f"variants/leaf.toml:5: {message}" in finished.stderr


@pytest.mark.slow
def test_hub_that_cannot_be_reached_is_an_error_of_the_network(locking: Locking) -> None:
    """A hub that does not answer, or offline mode, is an error of the network."""
    locking.spec()
    finished = locking.run("lock", HF_ENDPOINT="http://127.0.0.1:9")
    assert finished.returncode == 12
    assert "the model org/small cannot be fetched: " in finished.stderr
    finished = locking.run("lock", HF_HUB_OFFLINE="1")
    assert finished.returncode == 12
    assert "HF_HUB_OFFLINE" in finished.stderr


def test_password_in_the_address_of_a_hub_is_refused(locking: Locking) -> None:
    """A user name or password in HF_ENDPOINT would be in the lock."""
    locking.spec()
    endpoint = locking.hub.url.replace("://", "://someone:canary@")
    finished = locking.run("lock", HF_ENDPOINT=endpoint)
    assert finished.returncode == 17
    assert "HF_ENDPOINT contains a user name or password" in finished.stderr
    assert "canary" not in finished.stderr


@pytest.mark.slow
def test_model_of_the_project(locking: Locking) -> None:
    """A folder of the project is locked file by file; a file that changes afterwards is not built
    with --frozen."""
    folder = locking.folder / "models" / "own"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_bytes(CONFIG)
    (folder / "sub" / "model.safetensors").write_bytes(WEIGHTS)
    locking.spec('[[model]]\npath = "models/own"\n')
    assert locking.run("lock").returncode == 0
    assert [file["path"] for file in locking.locked()["files"]] == [
        "config.json",
        "sub/model.safetensors",
    ]
    (folder / "config.json").write_bytes(b"{}")
    finished = locking.run("build", "--frozen", "--target", "local")
    assert finished.returncode == 17
    assert f"`{folder}/config.json` has changed" not in finished.stderr
    assert f"{folder}/config.json has changed since it was locked:\n" in finished.stderr
    (folder / "config.json").write_text('{"token": "hf_' + 20 * "a" + '"}')
    finished = locking.run("lock")
    assert finished.returncode == 17
    assert f"`{folder}/config.json` contains a Hugging Face token" in finished.stderr
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/etc/passwd")
    finished = locking.run("lock")
    assert finished.returncode == 17
    assert "`models/own/config.json` is a symbolic link" in finished.stderr


def test_model_at_a_url(locking: Locking, content_server: ContentServer) -> None:
    """A URL is one file, whose target is the file itself."""
    content_server.files["voice.onnx"] = b"voice"
    locking.spec(f'[[model]]\nurl = "{content_server.url}/voice.onnx"\n')
    assert locking.run("lock").returncode == 0
    assert locking.locked()["files"] == [{"path": "", "sha256": sha256(b"voice"), "bytes": 5}]
    assert (
        "/home/user/models/voice.onnx: 5 bytes"
        in locking.run("plan", "--frozen", "--target", "local").stdout
    )


@pytest.mark.slow
def test_dataset_in_an_object_store(locking: Locking, store: Store) -> None:
    """Objects below an address are fetched with the store's own credentials, and not again while
    they are unchanged; an absent one is an error."""
    bucket = obstore.store.S3Store(
        "bucket",
        endpoint=store.endpoint,
        access_key_id=store.variables["AWS_ACCESS_KEY_ID"],
        secret_access_key=store.variables["AWS_SECRET_ACCESS_KEY"],
        region="us-east-1",
        client_options={"allow_http": True},
    )
    for name in ("rows/a.csv", "rows/deep/b.csv", "rows/c.txt", "other/d.csv"):
        bucket.put(name, name.encode())
    locking.spec('[[dataset]]\nurl = "s3://bucket/rows/"\nfiles = ["*.csv"]\n')
    for _ in range(2):
        finished = locking.run("lock")
        assert finished.returncode == 0, finished.stderr
    assert locking.locked()["files"] == [
        {"path": "a.csv", "sha256": sha256(b"rows/a.csv"), "bytes": 10},
        {"path": "deep/b.csv", "sha256": sha256(b"rows/deep/b.csv"), "bytes": 15},
    ]
    locking.spec('[[dataset]]\nurl = "s3://bucket/rows/c.txt"\n')
    assert locking.run("lock").returncode == 0
    assert locking.locked()["files"][0]["path"] == ""
    locking.spec('[[dataset]]\nurl = "s3://bucket/rows/absent"\n')
    finished = locking.run("lock")
    assert finished.returncode == 17
    assert "there is no object at s3://bucket/rows/absent" in finished.stderr
    assert store.variables["AWS_SECRET_ACCESS_KEY"] not in finished.stderr


@pytest.mark.slow
@pytest.mark.network
def test_build_that_e2b_cannot_make_is_blocked(
    place: Place, cloud: Server, hub: HubServer, small: Repo, command: Command
) -> None:
    """A private model that is too large for a COPY on E2B is known before a build is started."""
    small.private = True
    small.files["model.safetensors"] = bytes((16 << 20) + 1)
    path = place.folder / "variants" / "four.toml"
    path.write_text(f"{path.read_text()}{SMALL}[resources]\nmemory-mb = 128\n")
    variables = {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token}
    planned = command("plan", "four", "--target", "e2b", cwd=place.folder, **variables)
    assert "four      blocked" in planned.stdout
    assert "a step cannot fetch it, since it needs a token; set `resources.memory-mb` to" in (
        " ".join(planned.stdout.split())
    )
    small.private = False
    planned = command("plan", "four", "--target", "e2b", cwd=place.folder, **variables)
    assert "fetched by a step that checks the hash" in planned.stdout


@pytest.mark.slow
@pytest.mark.network
def test_model_goes_to_e2b_as_it_is_on_the_hub(
    place: Place, cloud: Server, hub: HubServer, small: Repo, command: Command
) -> None:
    """On E2B, a model is copied with its own step; what is recorded has its commit and its derived
    check, and packages that change leave its step in the cache."""
    path = place.folder / "variants" / "four.toml"
    text = path.read_text()
    path.write_text(f'{text}{SMALL}target = "/opt/small"\n')
    build = ("build", "four", "--target", "e2b", "--precheck", "never")
    variables = {"HF_ENDPOINT": hub.url}
    built = command(*build, cwd=place.folder, **variables)
    assert built.returncode == 0, built.stderr
    uploaded = {}
    for content in cloud.state.files.values():
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for entry in tar:
                if entry.name.startswith("fetched/") and (file := tar.extractfile(entry)):
                    uploaded[entry.name.split("/", 3)[3]] = (entry.mode, file.read())
    assert uploaded == {name: (0o644, content) for name, content in small.files.items()}
    record = place.recorded("four")
    assert "load the model org/small" in record["verified"]["checks"]
    spec = record["inputs"]["spec"]["four: model /opt/small"]
    assert spec.startswith(f"root 0644 org/small at {small.commit[:12]}, ")
    path.write_text(path.read_text().replace('"iniconfig"', '"iniconfig", "idna"'))
    planned = command("plan", "four", "--target", "e2b", "--json", cwd=place.folder, **variables)
    (variant,) = json.loads(planned.stdout)["variants"]
    copied = [step["args"][0].startswith("fetched/") for step in variant["program"]["steps"]]
    assert variant["cached_steps"] > copied.index(True)
