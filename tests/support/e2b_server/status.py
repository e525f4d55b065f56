"""The status of a build, as the call for it finds it in the cache or the database."""

from __future__ import annotations

import time
import uuid

from tests.support.e2b_server.state import ApiError, Build, State, is_uuid

_KEPT_SECONDS = 300
_RENEWED_SECONDS = 60


def shown(state: State, template_id: str, asked: str) -> tuple[Build, tuple[str, str, str | None]]:
    """Return a build with its status, message and step. What a call finds is cached under the ID of
    the build alone, and renewed from time to time as long as the build has a tag."""
    if not is_uuid(asked):
        raise ApiError(400, "Invalid build id")
    build_id, now = str(uuid.UUID(asked)), time.monotonic()
    template = state.templates.get(template_id)
    stored = template.build(build_id) if template else None
    templates = (*state.templates.values(), *state.deleted.values())
    every = (build for known in templates for build in known.builds)
    build = stored or next((build for build in every if build.id == build_id), None)
    cached = build and now < build.cached_at + _KEPT_SECONDS and build.cached
    if build is None or not (stored or cached):
        raise ApiError(400, f"Build '{build_id}' not found")
    current = (build.status, build.message, build.step)
    if stored and (not cached or now > build.cached_at + _RENEWED_SECONDS):
        build.cached, build.cached_at = current, now
    return build, cached or current
