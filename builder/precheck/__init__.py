"""Build and start a rendered Dockerfile with Docker before it goes to a target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import EngineUnavailableError, MissingExtraError
from builder.precheck.check import Checked, Image, Precheck
from builder.project import PrecheckSettings
from builder.system.extras import needs

if TYPE_CHECKING:
    from builder.precheck.engine import DockerEngine

__all__ = ["Checked", "Image", "Precheck", "connect_engine"]


def connect_engine(settings: PrecheckSettings) -> DockerEngine:
    """Return the Docker engine of this machine. Raise `EngineUnavailableError` if none answers, or
    the extra for it is not installed."""
    try:
        with needs("docker"):
            from builder.precheck.engine import DockerEngine
    except MissingExtraError as error:
        raise EngineUnavailableError(error.message, hint=error.hint) from error
    return DockerEngine(settings)
