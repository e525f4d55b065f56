"""A lock: the base image of a variant, and the exact packages of each stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from builder.lock.base_image import BaseImage
from builder.lock.content import LockedDownload, LockedModel
from builder.lock.pins import parse_pins, parts


@dataclass(frozen=True, kw_only=True, slots=True)
class StageLock:
    """The packages that one stage adds: `text` is a requirements file without header, of `hashed`
    packages and then of `commits`, which cannot be installed from one file.

    `torch_backend` is the backend whose index the packages come from, None for the default index.
    If that is a fallback, `fallback_bytes` is the size of its download (see `download_size`).
    `node` is npm's lock of `node_packages`.
    """

    stem: str
    requirements: tuple[str, ...]
    text: str
    torch_wanted: str | None
    torch_backend: str | None
    fallback_bytes: int | None = None
    downloads: tuple[LockedDownload, ...] = ()
    node_packages: tuple[str, ...] = ()
    node: str = ""
    models: tuple[LockedModel, ...] = ()

    @property
    def hashed(self) -> str:
        """Return the part of the text in which each package has hashes."""
        return parts(self.text)[0]

    @property
    def commits(self) -> str:
        """Return the part of the text with packages from commits, which have no hashes."""
        return parts(self.text)[1]

    @property
    def fell_back(self) -> bool:
        """Whether the packages come from the default index instead of the backend's."""
        return bool(self.torch_wanted and self.torch_backend is None and self.text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """A variant's base image and the locks of its stages, root first. `env` are the variables of
    the base image to which its specs refer."""

    image: BaseImage
    python: str
    stages: tuple[StageLock, ...]
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def packages(self) -> dict[str, str]:
        """Return distribution → version; versions of several platforms are joined by " | "."""
        versions: dict[str, set[str]] = {}
        for stage in self.stages:
            for name, version in parse_pins(stage.text):
                versions.setdefault(name, set()).add(version)
        return {name: " | ".join(sorted(versions[name])) for name in sorted(versions)}

    @property
    def fallbacks(self) -> tuple[tuple[str, str], ...]:
        """Return what replaces a PyTorch backend whose index could not be reached, and its cost."""
        fallbacks = []
        fallen = [stage for stage in self.stages if stage.fell_back]
        for backend in dict.fromkeys(stage.torch_wanted for stage in fallen):
            sizes = [stage.fallback_bytes for stage in fallen if stage.torch_wanted == backend]
            cost = "on Linux the CUDA build, a download of several GB"
            if None not in sizes:
                total = sum(size for size in sizes if size is not None) / 1e9
                cost = f"on Linux on x86-64 the CUDA build, a download of {total:.2f} GB"
            text = (
                f'`torch-backend = "{backend}"`: that index could not be reached; PyTorch is taken'
                " from the default index"
            )
            fallbacks.append((text, cost))
        return tuple(fallbacks)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return in which respects the lock is weaker than the spec."""
        notes = [self.image.note] if self.image.note else []
        notes += [f"{text} ({cost})" for text, cost in self.fallbacks]
        return tuple(notes)
