"""The stand-in for E2B: its protocol, rules, cache, limits and faults.

Its behaviour follows E2B's published sources (github.com/e2b-dev/infra) and SDKs. Every request and
response is checked against `description.yaml`, the facts of E2B's published OpenAPI description.
"""

from tests.support.e2b_server.faults import Fault
from tests.support.e2b_server.server import Server
from tests.support.e2b_server.steps import DockerSteps, ModelledSteps

__all__ = ["DockerSteps", "Fault", "ModelledSteps", "Server"]
