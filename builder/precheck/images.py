"""The images that checks with Docker have left, so that a next one is fast."""

from __future__ import annotations

import time

import docker
import docker.errors

from builder.errors import counted
from builder.targets.protocol import Needs, Unused

SUBJECT = "template-builder.precheck"
DIGEST = "template-builder.digest"


def unused_images(client: docker.DockerClient, needs: Needs) -> list[Unused]:
    """Images that nothing needs, largest first."""
    waste = []
    # A list of summaries: an image that goes meanwhile is not asked for again.
    for image in client.api.images(filters={"label": SUBJECT}):
        age = time.time() - image["Created"]
        digest = image["Labels"].get(DIGEST)
        if age < needs.protect_seconds or (digest and needs.of("", digest)):
            continue
        tags = [tag for tag in image["RepoTags"] or () if tag != "<none>:<none>"]
        waste.append(
            Unused(
                kind="image",
                identity=tags[0] if tags else image["Id"][:19],
                subject=image["Id"],
                size=image["Size"],
                why=f"no channel needs what it was built from, {counted(age / 86400, 'day')} old",
            )
        )
    return sorted(waste, key=lambda one: -(one.size or 0))


def remove_image(client: docker.DockerClient, identity: str) -> str | None:
    """Remove an image with its layers; why not, where it cannot be."""
    try:
        client.images.remove(identity, force=False)
    except docker.errors.ImageNotFound:
        return None
    except docker.errors.APIError as error:
        return str(error.explanation or error)
    return None
