"""The rendered Dockerfile, built and started on a Docker engine before it goes to a target."""

from builder.precheck.check import Checked, Engine, Image, known_good, precheck

__all__ = ["Checked", "Engine", "Image", "known_good", "precheck"]
