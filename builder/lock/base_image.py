"""Resolve the tag of a base image to its current digest.

It asks the image's registry, with the OCI distribution protocol
(https://github.com/opencontainers/distribution-spec), and pulls nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.registry.identity import Ref
from builder.system.documents import parse_json

if TYPE_CHECKING:
    import httpx

    from builder.spec import Parent

_TIMEOUT_SECONDS = 10.0
_ACCEPT = (
    "application/vnd.oci.image.index.v1+json,"
    "application/vnd.docker.distribution.manifest.list.v2+json,"
    "application/vnd.oci.image.manifest.v1+json,"
    "application/vnd.docker.distribution.manifest.v2+json"
)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NEEDS_CREDENTIALS = "does not exist in its registry, or needs credentials"
# Error codes of a registry itself; a filter that answers instead has none.
_DENIED = {"DENIED", "UNAUTHORIZED", "NAME_UNKNOWN", "MANIFEST_UNKNOWN"}


class UnknownImageError(Exception):
    """The registry has no image of that name, or does not give it; `why` is a predicate."""

    def __init__(self, reference: str, why: str) -> None:
        super().__init__(reference, why)
        self.reference = reference
        self.why = why


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseImage:
    """An image reference as in the spec, and the digest that it is locked to.

    `digest` is None if the registry did not answer; `note` then says why.
    """

    reference: str
    digest: str | None
    note: str | None = None

    def cached_by_name(self, target: str, since: str | None = None) -> str | None:
        """Return how E2B caches an image that is not pinned; `since` is the day it was fetched."""
        if self.digest is not None:
            return None
        note = self.note or f"base image `{self.reference}` is not pinned to a digest"
        state = f" as it was on {since}, " if since else ", "
        return (
            f"{note}; E2B caches it by this name{state}until `template-builder build"
            f" --refresh-base --target {target}` fetches it again"
        )

    @property
    def pinned(self) -> str:
        """Return the reference for FROM."""
        if self.digest is None or "@" in self.reference:
            return self.reference
        return f"{self.reference}@{self.digest}"


def inherited(parent: Parent) -> BaseImage:
    """Return the base image of the build that a template is from, which it inherits."""
    note = None
    if not Ref(parent.ref).build_id:
        note = (
            f"`from-template` {parent.reference} names no build: E2B takes the one that has the"
            " tag `default` when it builds"
        )
    digest = parent.image.partition("@")[2] or None
    return BaseImage(reference=parent.image, digest=digest, note=note)


def resolve_digest(reference: str) -> BaseImage:
    """Ask the registry of `reference` for the digest. If it does not answer, the result has a
    `note`. Raise `UnknownImageError`."""
    if "@" in reference:
        return BaseImage(reference=reference, digest=reference.partition("@")[2])
    import httpx

    repository, tag = _repository_of(reference)
    url = f"{repository}/manifests/{tag}"
    headers = {"Accept": _ACCEPT}
    try:
        with httpx.Client(timeout=_TIMEOUT_SECONDS, follow_redirects=True) as client:
            answer = client.head(url, headers=headers)
            if answer.status_code == httpx.codes.UNAUTHORIZED:
                if not _authorize(client, headers, answer):
                    raise UnknownImageError(reference, _NEEDS_CREDENTIALS)
                answer = client.head(url, headers=headers)
            if answer.status_code == httpx.codes.NOT_FOUND:
                raise UnknownImageError(reference, "does not exist in its registry")
            if answer.status_code == httpx.codes.UNAUTHORIZED or (
                answer.status_code == httpx.codes.FORBIDDEN
                and _is_denied(client.get(url, headers=headers))
            ):
                raise UnknownImageError(reference, _NEEDS_CREDENTIALS)
            answer.raise_for_status()
            digest = answer.headers.get("Docker-Content-Digest", "")
    except httpx.HTTPStatusError as error:
        return kept(reference, f"its registry answered {error.response.status_code}")
    # httpx passes on errors of proxy schemes and certificate files.
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, OSError, ValueError):
        return kept(reference, "its registry did not answer")
    if not DIGEST.fullmatch(digest):
        return kept(reference, "its registry gave no digest")
    return BaseImage(reference=reference, digest=digest)


def environment_of(image: BaseImage) -> dict[str, str] | None:
    """Return the variables of an image from its registry, for linux/amd64 if the image has several
    platforms; None if the registry does not give them."""
    import httpx

    repository, tag = _repository_of(image.reference)
    headers = {"Accept": _ACCEPT}
    try:
        with httpx.Client(timeout=_TIMEOUT_SECONDS, follow_redirects=True) as client:
            url = f"{repository}/manifests/"
            manifest = _document(client, url + (image.digest or tag), headers)
            for each in manifest.get("manifests", ()):
                platform = each["platform"]
                if (platform["os"], platform["architecture"]) == ("linux", "amd64"):
                    manifest = _document(client, url + each["digest"], headers)
            url = f"{repository}/blobs/{manifest['config']['digest']}"
            pairs = _document(client, url, headers)["config"].get("Env") or ()
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, OSError, ValueError):
        return None
    except (LookupError, TypeError, AttributeError):  # no configuration of an image
        return None
    return dict(pair.partition("=")[::2] for pair in pairs)


def _document(client: httpx.Client, url: str, headers: dict[str, str]) -> Any:
    answer = client.get(url, headers=headers)
    if answer.status_code == 401 and _authorize(client, headers, answer):
        answer = client.get(url, headers=headers)
    answer.raise_for_status()
    return parse_json(answer.content)


def _repository_of(reference: str) -> tuple[str, str]:
    """Return the URL of the repository of an image, and the tag."""
    host, repository, tag = _parts(reference.partition("@")[0])
    scheme = "http" if host.partition(":")[0] in ("localhost", "127.0.0.1") else "https"
    return f"{scheme}://{host}/v2/{repository}", tag


def _authorize(client: httpx.Client, headers: dict[str, str], answer: httpx.Response) -> bool:
    """Add an anonymous token to the headers, if the registry issues one."""
    token = _anonymous_token(client, answer.headers.get("WWW-Authenticate", ""))
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return token is not None


def kept(reference: str, why: str) -> BaseImage:
    """Return the image with its tag alone, and a note that says why."""
    return BaseImage(
        reference=reference,
        digest=None,
        note=f"base image `{reference}` is not pinned to a digest: {why}; the tag is kept",
    )


def _parts(reference: str) -> tuple[str, str, str]:
    """Return host, repository and tag, with Docker's defaults."""
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
    """Follow a `WWW-Authenticate: Bearer realm="…",service="…",scope="…"` challenge. Return None if
    the registry issues no anonymous token."""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = fields.pop("realm", None)
    if realm is None or not challenge.lower().startswith("bearer "):
        return None
    answer = client.get(realm, params=fields)
    if answer.status_code in (401, 403) and _is_denied(answer):
        return None
    answer.raise_for_status()
    body = parse_json(answer.content)
    token = body.get("token") or body.get("access_token") if isinstance(body, dict) else None
    return token if isinstance(token, str) else None


def _is_denied(answer: httpx.Response) -> bool:
    """Return whether the registry itself refused, by the error codes of the protocol."""
    try:
        errors = answer.json()["errors"]
        return any(error["code"] in _DENIED for error in errors)
    except (ValueError, KeyError, TypeError):
        return False
