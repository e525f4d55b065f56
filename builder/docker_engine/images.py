"""The images that checks with Docker have left, so that a next one is fast."""

from __future__ import annotations

import datetime as dt
import re

import docker
import docker.errors

from builder.build import Needs, Waste
from builder.errors import counted

__all__ = ["DIGEST", "SUBJECT", "remove_image", "unused_images"]

SUBJECT = "template-builder.precheck"
DIGEST = "template-builder.digest"


def unused_images(client: docker.DockerClient, needs: Needs, protect: float) -> list[Waste]:
    """Images that nothing needs, made more than `protect` seconds ago; largest first."""
    now, found = dt.datetime.now(dt.UTC), []
    for image in client.images.list(filters={"label": SUBJECT}):
        # Nanoseconds, which Python does not read.
        created = re.sub(r"(\.\d{6})\d*", r"\1", str(image.attrs["Created"]))
        age = (now - dt.datetime.fromisoformat(created)).total_seconds()
        digest = image.labels.get(DIGEST)
        if age < protect or (digest and needs("", digest)):
            continue
        found.append(
            Waste(
                kind="image",
                identity=str(image.tags[0]) if image.tags else str(image.id)[:19],
                subject=str(image.id),
                size=int(image.attrs["Size"]),
                why=f"no channel needs what it was built from, {counted(age / 86400, 'day')} old",
            )
        )
    return sorted(found, key=lambda one: -(one.size or 0))


def remove_image(client: docker.DockerClient, identity: str) -> str | None:
    """Remove an image with its layers; why not, where it cannot be."""
    try:
        client.images.remove(identity, force=False)
    except docker.errors.ImageNotFound:
        return None
    except docker.errors.APIError as error:
        return str(error.explanation or error)
    return None
