from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from builder.lock.content import LockedModel
from builder.render import render
from builder.render.loading import loading_check
from tests.conftest import BASE
from tests.support.content_server import sha256
from tests.support.hub_server import safetensors
from tests.support.samples import load, lock_of

LEAF = "schema = 1\nname = 'leaf'\nextends = '_base'\n[[model]]\nrepo = 'org/small'\n"
CONTENT = {
    "model.safetensors": safetensors(),
    "config.json": b'{"hidden_size": 8}',
    "rows.jsonl": b'{"a": 1}\n',
    "rows.csv": b"a,b\n1,2\n",
    "voice.onnx": b"any bytes",
}


def check_of(folder: Path, files: dict[str, bytes], *, runs_code: bool = True) -> str:
    variant = load(folder, _base=BASE, leaf=LEAF)["leaf"]
    hashes = tuple((name, sha256(text), len(text)) for name, text in files.items())
    lock = lock_of(variant)
    model = LockedModel(
        kind="model", location="org/small", revision="main", commit="c" * 40, endpoint="https://hub.example",
        hashes=hashes,
    )  # fmt: skip
    stage = dataclasses.replace(lock.stages[1], models=(model,))
    (content,) = render(variant, dataclasses.replace(lock, stages=(lock.stages[0], stage))).fetched
    check = loading_check(content, runs_code=runs_code)
    assert check.name == "load the model org/small"
    assert (check.code is None, check.exit_code) == ((False, None) if runs_code else (True, 0))
    return check.code or check.command or ""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the model in a sandbox's home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # which the check sets
    folder = tmp_path / "models" / "org" / "small"
    folder.mkdir(parents=True)
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    return folder


def run(code: str) -> None:
    exec(compile(code, "check", "exec"), {"__name__": "__main__"})  # noqa: S102 - as a sandbox does


def test_derived_check_loads_every_file(home: Path, tmp_path: Path) -> None:
    """The derived check reads the header of safetensors, JSON, and the first rows of tables, and
    compares the hash of all else."""
    run(check_of(tmp_path, CONTENT))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", safetensors()[:-1], "has another size"),
        ("model.safetensors", b"\xff" * len(safetensors()), "its header is longer than the file"),
        (
            "model.safetensors",
            safetensors().replace(b"[8]", b"[9]").replace(b"0, 8", b"0, 9"),
            "its header describes another file",
        ),
        ("config.json", b'{"hidden_size": 8;', "Expecting ',' delimiter"),
        ("rows.jsonl", b"{'a': 1}\n", "Expecting property name"),
        ("voice.onnx", b"any byteS", "is not the file that was locked"),
    ],
)  # fmt: skip
def test_derived_check_finds_damage(
    home: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    """A file that is missing, cut or damaged fails the derived check of its model."""
    code = check_of(tmp_path, CONTENT)
    (home / name).write_bytes(content)
    with pytest.raises((AssertionError, ValueError), match=message):
        run(code)
    (home / name).unlink()
    with pytest.raises(FileNotFoundError):
        run(code)


def test_template_that_runs_no_code_has_it_as_a_command(home: Path, tmp_path: Path) -> None:
    """Where nothing runs code, the derived check is a command, which fails as the code does."""
    command = check_of(tmp_path, CONTENT, runs_code=False)

    def code() -> int:
        return subprocess.run(["sh", "-c", command], capture_output=True, check=False).returncode

    assert code() == 0
    (home / "config.json").write_bytes(b"{")
    assert code() == 1


# As much of two libraries as the check uses, each of which knows one kind of file.
LIBRARIES = {
    "transformers.py": """
import json, os
class AutoConfig:
    @staticmethod
    def from_pretrained(folder, *, local_files_only):
        assert local_files_only and os.environ["HF_HUB_OFFLINE"] == "1"
        kind = json.load(open(folder + "/config.json"))["model_type"]
        if kind != "bert":
            raise ValueError("unrecognized model: " + kind)
""",
    "pyarrow/__init__.py": "",
    "pyarrow/parquet.py": """
class ParquetFile:
    def __init__(self, path):
        self.content = open(path, "rb").read()
    def iter_batches(self, *, batch_size):
        if not self.content.startswith(b"PAR1"):
            raise ValueError("no Parquet file")
        yield batch_size
""",
}


@pytest.mark.parametrize(
    ("name", "content", "other", "message"),
    [
        ("config.json", {"model_type": "bert"}, {"model_type": "bort"}, "unrecognized model: bort"),
        ("rows.parquet", "PAR1", "PAR2", "no Parquet file"),
    ],
    ids=["AutoConfig", "Parquet"],
)
def test_library_of_a_template_loads_the_files_of_its_kind(
    home: Path, tmp_path: Path, name: str, content: object, other: object, message: str
) -> None:
    """If a template has transformers or pyarrow, the derived check loads a configuration or a
    Parquet file with it. Otherwise, it reads JSON and compares the hash of Parquet files."""
    good, bad = (
        text.encode() if isinstance(text, str) else json.dumps(text).encode()
        for text in (content, other)
    )
    for path, text in LIBRARIES.items():
        (tmp_path / "libraries" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "libraries" / path).write_text(text)

    def error(expected: bytes, present: bytes, *libraries: Path) -> str:
        code = check_of(tmp_path, {name: expected})
        (home / name).write_bytes(present)
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": ":".join(map(str, libraries))},
        )
        return done.stderr.strip().rpartition("\n")[2]

    assert error(good, good, tmp_path / "libraries") == ""
    assert error(bad, bad, tmp_path / "libraries") == f"ValueError: {message}"
    assert error(bad, bad) == ""
