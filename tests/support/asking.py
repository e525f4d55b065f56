"""Send requests to the stand-in for E2B without the SDK."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from tests.support.e2b_server import Server
from tests.support.e2b_server.state import Team
from tests.support.runs import until

Ask = Callable[..., httpx.Response]
OTHER = "e2b_" + "2" * 40


def of_two_teams(steps: Any = None) -> Server:
    """Return a server with two teams: that of its own key, and that of `OTHER`."""
    return Server(steps, teams=[Team(key="e2b_" + "1" * 40), Team(key=OTHER, slug="other")])


def asking(server: Server) -> Ask:
    """Send a request with a team's key."""

    def send(method: str, path: str, body: Any = None, *, key: str = server.key) -> httpx.Response:
        headers = {"X-API-Key": key}
        return httpx.request(method, server.url + path, json=body, headers=headers)

    return send


def requested(ask: Ask, name: str, **options: Any) -> Any:
    answer = ask("POST", "/v3/templates", {"name": name, **options})
    assert answer.status_code == 202, answer.text
    return answer.json()


def built(ask: Ask, name: str, *, start: dict[str, Any] | None = None, **options: Any) -> Any:
    """Request a build, start it and wait for its end. Return the response to the request, with the
    last status and all lines of the log."""
    response = requested(ask, name, **options)
    path = f"templates/{response['templateID']}/builds/{response['buildID']}"
    begun = ask("POST", f"/v2/{path}", start or {"fromImage": "ubuntu:22.04", "steps": []})
    assert begun.status_code == 202, begun.text

    def ended() -> bool:
        response["status"] = ask("GET", f"/{path}/status").json()
        return response["status"]["status"] in ("ready", "error")

    until(ended)
    response["lines"] = [entry["message"] for entry in response["status"]["logEntries"]]
    return response
