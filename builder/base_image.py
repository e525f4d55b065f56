"""From an image's moving tag to the digest that the tag means today.

It asks the image's registry by the OCI distribution protocol
(https://github.com/opencontainers/distribution-spec) and pulls nothing. The only owner of httpx on
the build side.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.documents import parse_json

if TYPE_CHECKING:
    import httpx

__all__ = ["BaseImage", "resolve_digest"]

_TIMEOUT_SECONDS = 10.0
_ACCEPT = (
    "application/vnd.oci.image.index.v1+json,"
    "application/vnd.docker.distribution.manifest.list.v2+json,"
    "application/vnd.oci.image.manifest.v1+json,"
    "application/vnd.docker.distribution.manifest.v2+json"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseImage:
    """An image reference as the spec has it, and the digest it is locked to.

    `digest` is None where no registry answered; `note` then says why.
    """

    reference: str
    digest: str | None
    note: str | None = None

    @property
    def pinned(self) -> str:
        """What stands behind FROM."""
        if self.digest is None or "@" in self.reference:
            return self.reference
        return f"{self.reference}@{self.digest}"


def resolve_digest(reference: str) -> BaseImage:
    """Ask the registry of `reference` for its digest; a failure becomes the result's `note`."""
    if "@" in reference:
        return BaseImage(reference=reference, digest=reference.partition("@")[2])
    import httpx

    host, repository, tag = _parts(reference)
    scheme = "http" if host.partition(":")[0] in ("localhost", "127.0.0.1") else "https"
    url = f"{scheme}://{host}/v2/{repository}/manifests/{tag}"
    try:
        with httpx.Client(timeout=_TIMEOUT_SECONDS, follow_redirects=True) as client:
            answer = client.head(url, headers={"Accept": _ACCEPT})
            if answer.status_code == httpx.codes.UNAUTHORIZED:
                token = _anonymous_token(client, answer.headers.get("WWW-Authenticate", ""))
                if token is None:
                    return _kept(reference, "its registry gives no anonymous access")
                headers = {"Accept": _ACCEPT, "Authorization": f"Bearer {token}"}
                answer = client.head(url, headers=headers)
            answer.raise_for_status()
            digest = answer.headers.get("Docker-Content-Digest", "")
    except httpx.HTTPStatusError as error:
        return _kept(reference, f"its registry answered {error.response.status_code}")
    # Not only its own: httpx passes on what a proxy scheme or a certificate file runs into.
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, OSError, ValueError):
        return _kept(reference, "its registry did not answer")
    if not _DIGEST.fullmatch(digest):
        return _kept(reference, "its registry gave no digest")
    return BaseImage(reference=reference, digest=digest)


def _kept(reference: str, why: str) -> BaseImage:
    return BaseImage(
        reference=reference,
        digest=None,
        note=f"base image `{reference}` is not pinned to a digest: {why}; the tag is kept",
    )


def _parts(reference: str) -> tuple[str, str, str]:
    """Host, repository and tag, by Docker's rules for what is left out."""
    first, slash, rest = reference.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        host, path = first, rest
    else:
        host, path = "docker.io", reference
    repository, _, tag = path.partition(":")
    if host == "docker.io":
        host = "registry-1.docker.io"
        repository = repository if "/" in repository else f"library/{repository}"
    return host, repository, tag or "latest"


def _anonymous_token(client: httpx.Client, challenge: str) -> str | None:
    """Follow a `WWW-Authenticate: Bearer realm="…",service="…",scope="…"` challenge."""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = fields.pop("realm", None)
    if realm is None or not challenge.lower().startswith("bearer "):
        return None
    answer = client.get(realm, params=fields)
    answer.raise_for_status()
    body = parse_json(answer.content)
    token = body.get("token") or body.get("access_token") if isinstance(body, dict) else None
    return token if isinstance(token, str) else None
