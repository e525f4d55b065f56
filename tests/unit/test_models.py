from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest
import tomli_w
from e2b_dockerfile_utils import parse_dockerfile_ast
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

from builder.errors import SpecError, StaleLockError
from builder.lock.committed import read_committed
from builder.lock.content import LockedModel, is_below
from builder.plan.inputs import inputs_of
from builder.plan.steps import program_of, step_keys_of
from builder.render import Rendered, render, undeliverable, write
from builder.spec import Variant
from builder.targets.local.target import LocalTarget
from tests.conftest import BASE
from tests.support.samples import load, lock_of, problems

LEAF = "schema = 1\nname = 'leaf'\nextends = '_base'\n"
HUB = "https://hub.example"
COMMIT = "c" * 40
MIB = 1 << 20
MODELS = """
[resources]
memory-mb = 256
[[model]]
repo = "org/small"
[[model]]
repo = "org/large"
revision = "v1"
files = ["*.safetensors"]
target = "/opt/large"
[[model]]
url = "https://host.example/voice.onnx?version=2"
[[model]]
path = "models/own"
[[dataset]]
url = "s3://bucket/rows/"
[python]
packages = ["idna"]
"""
FILES: list[list[tuple[str, int]]] = [
    [("config.json", 100), ("model.safetensors", 1000)],
    [("a.safetensors", 32 * MIB), ("b.safetensors", 1)],
    [("", 4000)],
    [("model.bin", 10)],
    [("train.csv", 10)],
]


class DockerfileSnapshot(SingleFileSnapshotExtension):
    """One readable file a snapshot."""

    _write_mode = WriteMode.TEXT
    file_extension = "Dockerfile"


def loaded(folder: Path, text: str = MODELS) -> Variant:
    (folder / "models" / "own").mkdir(parents=True, exist_ok=True)
    return load(folder, _base=BASE, leaf=LEAF + text)["leaf"]


def rendered(
    variant: Variant, *, digit: str = "1", token: bool = False, version: str = "1.0"
) -> Rendered:
    """Render with a lock in which all files have the hash `digit` repeated."""
    lock = lock_of(variant, version=version)
    models = tuple(
        LockedModel(
            kind=model.kind,
            location=model.location,
            revision=model.revision,
            patterns=model.files,
            commit=COMMIT if model.source == "repo" else None,
            endpoint=HUB if model.source == "repo" else None,
            token=token,
            hashes=tuple((path, digit * 64, size) for path, size in files),
        )
        for model, files in zip(variant.stages[1].models, FILES, strict=False)
    )
    stage = dataclasses.replace(lock.stages[1], models=models)
    return render(variant, dataclasses.replace(lock, stages=(lock.stages[0], stage)))


def test_dockerfile(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    """Each model and dataset has a layer of its own before the Python packages: copied, or fetched
    by a step if it is too large for that."""
    text = rendered(loaded(tmp_path)).content("Dockerfile").decode()
    assert text == snapshot.use_extension(DockerfileSnapshot)


def test_default_targets(tmp_path: Path) -> None:
    """Without a target, what is in a sandbox has the name of its source, below a folder for its
    kind in the home."""
    targets = {m.location: m.target for m in loaded(tmp_path).stages[1].models}
    assert targets == {
        "org/small": "/home/user/models/org/small",
        "org/large": "/opt/large",
        "https://host.example/voice.onnx?version=2": "/home/user/models/voice.onnx",
        "models/own": "/home/user/models/own",
        "s3://bucket/rows/": "/home/user/datasets/rows",
    }


def test_step_fetches_by_commit_and_hash(tmp_path: Path) -> None:
    """The step that fetches a model asks the hub for files of the locked commit, with their
    hashes, and has no token."""
    result = rendered(loaded(tmp_path))
    (path,) = [file.path for file in result.files if file.path.startswith("fetch/")]
    assert json.loads(result.content(path)) == {
        "target": "/opt/large",
        "owner": "root",
        "mode": "0644",
        "extract": False,
        "files": [
            {
                "path": name,
                "url": f"{HUB}/org/large/resolve/{COMMIT}/{name}",
                "sha256": "1" * 64,
            }
            for name in ("a.safetensors", "b.safetensors")
        ],
    }


def test_lock_is_committed_and_read_back(tmp_path: Path) -> None:
    """template.toml has commit, hub and the hash and size of each file, and a lock reads back from
    it."""
    variant = loaded(tmp_path)
    result = rendered(variant, token=True)
    write([result], tmp_path / "generated", all_variants=True)
    document = tomllib.loads((tmp_path / "generated" / "leaf" / "template.toml").read_text())
    assert document["lock"]["stages"][1]["models"][1] == {
        "kind": "model",
        "location": "org/large",
        "revision": "v1",
        "commit": COMMIT,
        "endpoint": HUB,
        "patterns": ["*.safetensors"],
        "needs-token": True,
        "files": [
            {"path": "a.safetensors", "sha256": "1" * 64, "bytes": 32 * MIB},
            {"path": "b.safetensors", "sha256": "1" * 64, "bytes": 1},
        ],
    }
    assert document["stages"][1]["models"][4] == {
        "kind": "dataset",
        "url": "s3://bucket/rows/",
        "target": "/home/user/datasets/rows",
    }
    assert read_committed([variant], tmp_path / "generated") == {"leaf": result.lock}


STALE = {
    ('repo = "org/small"', 'repo = "org/other"'): [
        "the model org/small was removed",
        "the model org/other was added",
    ],
    ('"v1"', '"v2"'): ["`revision` of org/large: v1 → v2"],
    ('["*.safetensors"]', '["*.bin"]'): ["`files` of org/large have changed"],
}


@pytest.mark.parametrize(("old", "new"), STALE, ids=["repo", "revision", "files"])
def test_stale_locks_are_refused(tmp_path: Path, old: str, new: str) -> None:
    """A committed lock is refused if a repository, revision or pattern has changed since."""
    write([rendered(loaded(tmp_path))], tmp_path / "generated", all_variants=True)
    changed = loaded(tmp_path, MODELS.replace(old, new))
    error = read_committed([changed], tmp_path / "generated")["leaf"]
    assert isinstance(error, StaleLockError)
    assert error.message.splitlines()[1:] == [
        f"  variants/leaf.toml: {line}" for line in STALE[old, new]
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('path = "model.bin"', 'path = "../model.bin"'),
        ("1" * 64, "none"),
        (COMMIT, "main"),
        (HUB, "https://user@hub.example"),
    ],
    ids=["path", "hash", "commit", "endpoint"],
)
def test_damaged_locks_are_refused(tmp_path: Path, old: str, new: str) -> None:
    """A path that leads out, or what is no hash, commit or hub, is refused in template.toml."""
    variant = loaded(tmp_path)
    write([rendered(variant)], tmp_path / "generated", all_variants=True)
    path = tmp_path / "generated" / "leaf" / "template.toml"
    path.write_text(path.read_text().replace(old, new))
    error = read_committed([variant], tmp_path / "generated")["leaf"]
    assert isinstance(error, StaleLockError)
    assert "template.toml is not valid: " in error.message


def test_mistakes_have_their_place(tmp_path: Path) -> None:
    """Every mistake in a model is reported at once, with file, line and key."""
    text = """
[[model]]
repo = "org/a"
url = "https://host.example/a"
[[model]]
revision = "main"
[[model]]
url = "https://host.example/a.bin"
revision = "v1"
files = ["*"]
[[dataset]]
path = "data/absent"
[[dataset]]
url = "https://host.example/a%20b"
[[dataset]]
repo = "org/rows"
target = "/home/user/models/a.bin/rows"
"""
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "_base.toml").write_text(BASE.replace("    ", ""))
    (tmp_path / "variants" / "leaf.toml").write_text(LEAF + text)
    assert problems(tmp_path / "variants") == [
        "variants/leaf.toml:5:3: `model[0]`: has `repo` and `url` (write one of `repo`, `url` and"
        " `path`)",
        "variants/leaf.toml:8:3: `model[1]`: has no source (write one of `repo`, `url` and `path`)",
        "variants/leaf.toml:12:1: `model[2].revision`: is only for `repo`, not for `url`",
        "variants/leaf.toml:13:1: `model[2].files`: is not for a URL, which is one file",
        "variants/leaf.toml:15:1: `dataset[0].path`: 'data/absent' does not exist in the project",
        "variants/leaf.toml:18:3: `dataset[2]`: '/home/user/models/a.bin/rows' is below"
        " '/home/user/models/a.bin', a target in variants/leaf.toml",
    ]
    wrong = LEAF + "[[model]]\nrepo = 'a/b/c'\nrevision = '-x'\n[[model]]\nurl = 's3://bucket'\n"
    wrong += "[[model]]\npath = '../x'\n[[model]]\npath = '/'\n"
    (tmp_path / "variants" / "leaf.toml").write_text(wrong)
    assert problems(tmp_path / "variants") == [
        "variants/leaf.toml:5:1: `model[0].repo`: 'a/b/c' is not a repository such as"
        " 'organization/name'",
        "variants/leaf.toml:6:1: `model[0].revision`: '-x' is not a branch, a tag or a commit",
        "variants/leaf.toml:8:1: `model[1].url`: 's3://bucket' is not the address of an object such"
        " as 's3://bucket/name'",
        "variants/leaf.toml:10:1: `model[2].path`: '../x' is not a path inside the project",
        "variants/leaf.toml:12:1: `model[3].path`: '/' is not a path inside the project",
    ]


def test_folder_of_the_project_may_end_with_a_slash(tmp_path: Path) -> None:
    """`path` names the same folder with and without a slash at its end."""
    (tmp_path / "weights").mkdir()
    models = [
        load(tmp_path, leaf=f"schema = 1\nname = 'leaf'\n[[model]]\npath = '{path}'\n")["leaf"]
        .stages[0]
        .models[0]
        for path in ("weights", "weights/")
    ]
    assert models[0] == models[1]
    assert models[0].target == "/home/user/models/weights"


def test_packages_that_change_move_no_byte_of_a_model(tmp_path: Path) -> None:
    """When the packages change, all steps of models on E2B are the same, so they come from its
    cache; when a model changes, only its own differ."""
    variant = loaded(tmp_path)
    before = rendered(variant)
    program, keys = program_of(before), step_keys_of(before, program_of(before))

    def changed(after: Rendered) -> list[str]:
        pairs = zip(program.steps, keys, step_keys_of(after, program_of(after)), strict=True)
        return [step.args[0] for step, old, new in pairs if old != new]

    assert changed(rendered(variant, version="2.0")) == ["requirements/leaf.txt"]
    of_models = [
        step.args[0]
        for step in program.steps
        if "fetch" in step.args[0] and step.args[0] != "fetch.py"
    ]
    assert changed(rendered(variant, digit="2")) == of_models
    assert len(of_models) == 4 + 2  # one COPY each, and for the large one its list and its step


def test_plan_names_the_model_that_changed(tmp_path: Path) -> None:
    """The inputs of a build name each model by its target, with source, commit, content, revision
    and files."""
    inputs = inputs_of(rendered(loaded(tmp_path)))["spec"]
    models = {key: value for key, value in inputs.items() if key.startswith("leaf: model")}
    assert models["leaf: model /opt/large"].startswith("root 0644 org/large at cccccccccccc, ")
    assert models["leaf: model /opt/large revision"] == "v1"
    assert models["leaf: model /opt/large files"] == "*.safetensors"
    assert len([key for key in models if not key.endswith((" revision", " files"))]) == 4


def test_content_that_e2b_cannot_get_blocks_the_build(tmp_path: Path) -> None:
    """What is too large to be copied and cannot be fetched by a step is said before a build, with
    the memory that it would need."""
    variant = loaded(tmp_path)
    assert undeliverable(rendered(variant).fetched, 256) is None
    assert undeliverable(rendered(variant, token=True).fetched, 256) == (
        "the model org/large at cccccccccccc (33.6 MB) is too large for a COPY on E2B, which may have"
        " 33.6 MB with 256 MiB of memory, and a step cannot fetch it, since it needs a token; set"
        " `resources.memory-mb` to 258, or take fewer `files`"
    )


def test_local_lists_models_outside_of_the_home(tmp_path: Path) -> None:
    """`local` says which models it cannot provide at their paths."""
    assert LocalTarget(isolation="none").unsupported(loaded(tmp_path))[0] == (
        "models outside of /home/user of variants/leaf.toml: /opt/large"
    )


def test_paths_of_hubs_stay_below_their_folder() -> None:
    """A name from a hub or store that would lead out of the target is none."""
    paths = ["a", "a/b.c", "", "/a", "../a", "a/../b", "a//b", "a\nb", "a\\b", "./a", 5]
    assert [path for path in paths if is_below(path)] == ["a", "a/b.c", ""]


odd = st.text(alphabet="ab/.1 %\\-\"'$`!~*?#:;&|<>(){}[]@é\t\n\x00", max_size=12)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    source=st.sampled_from(["repo", "url", "path"]), value=odd, target=odd, revision=odd, files=odd
)
def test_no_value_adds_an_instruction(
    tmp_path_factory: pytest.TempPathFactory,
    source: str,
    value: str,
    target: str,
    revision: str,
    files: str,
) -> None:
    """Whatever is written into a model, the Dockerfile has the same instructions, or the spec is
    refused."""
    start = {"repo": "org/a", "url": "s3://bucket/a", "path": "models/own"}[source]
    entry = {source: f"{start}{value}", "target": f"/opt/{target}"}
    if source == "repo":
        entry["revision"] = f"v{revision}"
    text = tomli_w.dumps({"model": [{**entry, "files": [f"*{files}"]}]})
    try:
        variant = loaded(tmp_path_factory.mktemp("any"), text)
    except SpecError:
        return
    parsed = parse_dockerfile_ast(rendered(variant).content("Dockerfile").decode())
    names = " ".join(each.name.upper() for each in parsed.instructions)
    assert names == "FROM USER WORKDIR RUN RUN COPY RUN FROM COPY FROM COPY USER WORKDIR"
    assert not any(each.heredocs for each in parsed.instructions)
    assert parsed.instructions[8].args[-1] == entry["target"]
