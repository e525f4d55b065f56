"""A Docker engine: images built from rendered files, machines started from them."""

from __future__ import annotations

from builder.docker_engine.engine import DockerEngine

__all__ = ["DockerEngine"]
