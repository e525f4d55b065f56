"""Base images that are not pinned to a digest, on E2B, which caches them by their names."""

from __future__ import annotations

from tests.conftest import Command
from tests.support.clouds import Place
from tests.support.e2b_server import Server

NOTE = (
    "base image `localhost:1/python:3.13` is not pinned to a digest: its registry did not answer;"
    " the tag is kept; E2B caches it by this name"
)
UNTIL = "until `template-builder build --refresh-base --target e2b` fetches it again"


def test_base_that_is_not_pinned_is_said_and_refreshed(
    place: Place, cloud: Server, command: Command
) -> None:
    """Each build on a base image that is not pinned says that E2B caches it by its name; the plan
    says since when, and --refresh-base builds what has not changed on a base that is fetched."""
    done = command("build", "four", "--frozen", "--target", "e2b", cwd=place.folder)
    assert f"warning: {NOTE}, {UNTIL}\n" in done.stderr, done.stderr
    first = place.recorded("four")
    assert first["base_fetched"] is True
    done = command("build", "three", "--frozen", "--target", "e2b", cwd=place.folder)
    since = f"{NOTE} as it was on {first['built_at'][:10]}, {UNTIL}"
    assert f"warning: {since}\n" in done.stderr
    assert "base_fetched" not in place.recorded("three")
    done = command("plan", "four", "--frozen", "--target", "e2b", cwd=place.folder)
    assert f"note: {since}\n" in done.stdout
    for frozen in (["--frozen"], []):  # nothing is built, and it is said all the same, once
        done = command("build", "four", *frozen, "--target", "e2b", cwd=place.folder)
        assert "skipped" in done.stdout, done.stderr
        assert f"warning: {since}\n" in done.stderr
        assert done.stderr.count("is not pinned to a digest") == 1
    refresh = ("build", "four", "--refresh-base", "--frozen", "--target")
    done = command(*refresh, "e2b", cwd=place.folder)
    assert done.returncode == 0, done.stderr
    again = place.recorded("four")
    assert again["build_id"] != first["build_id"]
    assert again["base_fetched"] is True
    assert not [line for line in cloud.builds("four")[1].log if "CACHED" in line["message"]]
    done = command(*refresh, "local", cwd=place.folder)
    assert (
        "--refresh-base has no effect: local caches no base image by its name alone\n"
        in done.stderr
    )
