"""A server that speaks E2B's protocol: its rules, its cache, its limits, its nastiness.

What it does for each call was read from E2B's published sources (github.com/e2b-dev/infra) and from
the SDKs. Every request and answer is checked against `description.yaml`, the facts of E2B's
published OpenAPI description.
"""

from tests.support.e2b_server.faults import Fault
from tests.support.e2b_server.server import Server
from tests.support.e2b_server.steps import DockerSteps, ModelledSteps

__all__ = ["DockerSteps", "Fault", "ModelledSteps", "Server"]
