"""An image with a template's packages, built our way and the usual way: the build time, the size,
and the first import in a container, before any warm-up."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import docker

from bench.child import ChildError
from bench.engine import BASE, connect, project
from bench.options import Options
from bench.result import Result, Target, ratio, seconds
from bench.turns import take_turns
from builder import workflow
from builder.project import Project

__all__ = ["measure"]

_ROUNDS = 3
_CONTAINERS = 3
_PIP = "`pip install --no-cache-dir`"
_IMPORTS = """
import importlib, time
start = time.process_time()
for name in {names!r}: importlib.import_module(name)
print(time.process_time() - start)
"""
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Figures:
    """Seconds of the build, CPU seconds of the first imports, bytes of the image."""

    build: float
    size: float
    first: float

    @classmethod
    def median(cls, all_figures: Sequence[_Figures]) -> _Figures:
        return cls(
            build=median(figures.build for figures in all_figures),
            size=median(figures.size for figures in all_figures),
            first=median(figures.first for figures in all_figures),
        )


def measure(options: Options) -> Result:
    """Build both Dockerfiles in turns, without Docker's cache and on the same base image."""
    engine = connect()
    place = project(options.workshop)
    rows: list[tuple[str, ...]] = []
    targets: list[Target] = []
    for stem in options.variants:
        variants = {
            variant.stem: variant for variant in workflow.variants_called(Project.find(place), [])
        }
        if stem not in variants:
            raise ChildError(f"there is no spec `{stem}`; there are: {', '.join(variants)}")
        variant = variants[stem]
        folder = place / "generated" / variant.name
        ours = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        # Only the installation is compared: the warm-up has its own benchmark.
        text = ours["Dockerfile"].decode().replace("e2bdev/code-interpreter:latest", BASE)
        ours["Dockerfile"] = _trusting(text.partition("# ---- warm-up")[0])
        field = f"FROM {BASE} AS field\nUSER root\nRUN pip install --break-system-packages"
        field += f" --no-cache-dir {' '.join(variant.requirements)}\n"
        sides = {
            "lock and uv": _builder(ours, variant.imports),
            _PIP: _builder({"Dockerfile": _trusting(field)}, variant.imports),
        }
        measured = take_turns(sides, rounds=options.rounds or _ROUNDS)
        medians = {way: _Figures.median(figures) for way, figures in measured.items()}
        pip = medians[_PIP]
        for way, figures in medians.items():
            rows.append(
                (
                    f"`{variant.name}`",
                    way,
                    seconds(figures.build),
                    ratio(figures.build / pip.build),
                    f"{(figures.size - engine.image(BASE).size) / 2**20:,.0f} MiB",
                    seconds(figures.first),
                    ratio(figures.first / pip.first),
                )
            )
        value = medians["lock and uv"].first / pip.first
        what = f"{variant.name}, first imports to those after pip"
        targets.append(Target(what=what, value=value, limit=1.1))
    return Result(
        title="image: packages into an image",
        measured="A whole Docker build on one base image, without Docker's cache and with what the"
        " index delivers that moment. The size is what the image adds to its base. The first"
        " imports of the spec's warm-up modules, in CPU time, are those of a new container, as at"
        " level none.",
        headings=("template", "way", "build", "ratio", "size", "first imports", "ratio"),
        rows=tuple(rows),
        targets=tuple(targets),
        notes=(
            (
                "The generated Dockerfile also creates the account, checks Python's version and"
                " installs uv, which stays in the image."
            ),
        ),
    )


def _trusting(dockerfile: str) -> bytes:
    if not Path(_CERTIFICATES).exists():
        return dockerfile.encode()
    first, _, rest = dockerfile.partition("USER root\n")
    return f"{first}USER root\nENV SSL_CERT_FILE={_CERTIFICATES}\n{rest}".encode()


def _builder(files: Mapping[str, bytes], imports: Sequence[str]) -> Callable[[], _Figures]:
    client = docker.from_env(timeout=3600)
    command = ["python3", "-c", _IMPORTS.format(names=list(imports))]

    def build() -> _Figures:
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
        taken = time.perf_counter() - start
        run: Any = {"entrypoint": [], "user": "root", "network_mode": "none", "remove": True}
        first = [float(client.containers.run(image, command, **run)) for _ in range(_CONTAINERS)]
        client.images.remove(str(image.id), force=True)
        return _Figures(build=taken, size=int(image.attrs["Size"]), first=median(first))

    return build
