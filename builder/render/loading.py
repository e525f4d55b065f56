"""The derived check of a model or dataset: every file is there, and those of known kinds load."""

from __future__ import annotations

import shlex

from builder.render.fetched import Fetched
from builder.spec.variant import Check

_TIMEOUT_SECONDS = 600

# Runs in a sandbox, without a network: large files are read at their ends only, unless nothing but
# their hash says whether they are intact. A local sandbox has what belongs to its home.
_CODE = """
import csv, hashlib, importlib.util, itertools, json, os
os.environ["HF_HUB_OFFLINE"] = "1"
KIND, TARGET, FILES = {kind!r}, {target!r}, {files!r}
HOME = "/home/user/"
LOCAL = not os.path.isdir("/opt/template")

def has(library):
    return importlib.util.find_spec(library) is not None

def safetensors(path, size):
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        assert 8 + length <= size, path + ": its header is longer than the file"
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    assert 8 + length + end == size, path + ": its header describes another file"

def loaded_json(path):
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    is_model = os.path.basename(path) == "config.json" and "model_type" in config
    if KIND == "model" and is_model and has("transformers"):
        from transformers import AutoConfig
        AutoConfig.from_pretrained(os.path.dirname(path), local_files_only=True)

def first_line(path):
    with open(path, encoding="utf-8") as file:
        json.loads(next(file))

def first_row(path):
    with open(path, encoding="utf-8", newline="") as file:
        assert next(csv.reader(file), None), path + " is empty"

def first_batch(path):
    import pyarrow.parquet
    next(pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1), None)

def hashed(path, sha256):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    assert digest.hexdigest() == sha256, path + " is not the file that was locked"

def load(path, size, sha256):
    assert os.path.getsize(path) == size, path + " has another size"
    kind = os.path.splitext(path)[1].lower()
    if kind == ".safetensors":
        safetensors(path, size)
    elif kind == ".json":
        loaded_json(path)
    elif kind in (".jsonl", ".ndjson"):
        first_line(path)
    elif kind == ".csv":
        first_row(path)
    elif kind == ".parquet" and has("pyarrow"):
        first_batch(path)
    else:
        hashed(path, sha256)

place = TARGET
if LOCAL and TARGET.startswith(HOME):
    place = os.path.join(os.path.expanduser("~"), TARGET[len(HOME):])
if not LOCAL or TARGET.startswith(HOME):
    for path, size, sha256 in FILES:
        load(os.path.join(place, path) if path else place, size, sha256)
"""


def loading_check(content: Fetched, *, runs_code: bool) -> Check:
    """Return the check of a model or dataset, as a command in a template that runs no code."""
    files = [(file.path, file.size, file.sha256) for file in content.files]
    code = _CODE.format(kind=content.kind, target=content.target, files=files)
    return Check(
        name=f"load the {content.title.partition(' at ')[0]}",
        code=code if runs_code else None,
        command=None if runs_code else f"python3 -c {shlex.quote(code)}",
        exit_code=None if runs_code else 0,
        stdout=None,
        timeout=_TIMEOUT_SECONDS,
    )
