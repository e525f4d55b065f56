"""An image with a template's packages, made our way and as the field makes it: time and size."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import docker

from bench.child import ChildError
from bench.engine import BASE, connect, project
from bench.options import Options
from bench.result import Result, ratio, seconds
from bench.turns import take_turns
from builder import pipeline
from builder.project import Project

__all__ = ["measure"]

_ROUNDS = 3
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def measure(options: Options) -> Result:
    """Build both Dockerfiles without Docker's cache, by turns, on the same base image."""
    engine = connect()
    place = project(options.workshop)
    rows: list[tuple[str, ...]] = []
    for stem in options.variants:
        variants = {one.stem: one for one in pipeline.select(Project.find(place), [])}
        if stem not in variants:
            raise ChildError(f"there is no variant `{stem}`; there are: {', '.join(variants)}")
        variant = variants[stem]
        folder = place / "generated" / variant.name
        ours = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        # Only what installs is compared: the warm-up has a benchmark of its own.
        text = ours["Dockerfile"].decode().replace("e2bdev/code-interpreter:latest", BASE)
        ours["Dockerfile"] = _trusting(text.partition("# ---- warm-up")[0])
        field = f"FROM {BASE} AS field\nUSER root\nRUN pip install --break-system-packages"
        field += f" --no-cache-dir {' '.join(variant.requirements)}\n"
        sides = {
            "lock and uv": _builder(ours),
            "`pip install --no-cache-dir`": _builder({"Dockerfile": _trusting(field)}),
        }
        found = take_turns(sides, rounds=options.rounds or _ROUNDS)
        slowest = median(time for time, _ in found["`pip install --no-cache-dir`"])
        for way, built in found.items():
            taken = median(time for time, _ in built)
            size = median(size for _, size in built) - engine.image(BASE).size
            rows.append(
                (
                    f"`{variant.name}`",
                    way,
                    seconds(taken),
                    f"{size / 2**20:,.0f} MiB",
                    ratio(taken / slowest),
                )
            )
    return Result(
        title="image: packages into an image",
        measured="A whole Docker build on one base image, without Docker's cache and with what the"
        " index delivers that moment. The size is what the image adds to its base.",
        headings=("template", "way", "build", "size", "ratio"),
        rows=tuple(rows),
        notes=("Our side also makes the account, checks the Python and brings uv, which stays.",),
    )


def _trusting(dockerfile: str) -> bytes:
    if not Path(_CERTIFICATES).exists():
        return dockerfile.encode()
    first, _, rest = dockerfile.partition("USER root\n")
    return f"{first}USER root\nENV SSL_CERT_FILE={_CERTIFICATES}\n{rest}".encode()


def _builder(files: Mapping[str, bytes]) -> Callable[[], tuple[float, int]]:
    client = docker.from_env(timeout=3600)

    def build() -> tuple[float, int]:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for path, content in files.items():
                entry = tarfile.TarInfo(path)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        packed.seek(0)
        start = time.perf_counter()
        image, _ = client.images.build(
            fileobj=packed, custom_context=True, nocache=True, rm=True, network_mode="host"
        )
        taken, size = time.perf_counter() - start, int(image.attrs["Size"])
        client.images.remove(str(image.id), force=True)
        return taken, size

    return build
