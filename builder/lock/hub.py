"""Ask a Hugging Face hub for the files of a repository.

The only owner of huggingface_hub, which takes the address of the hub and the token from the
environment (`HF_ENDPOINT`, `HF_TOKEN`). The token goes to the hub and nowhere else.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from builder.errors import FetchError, NetworkError, TemplateError, from_os_error
from builder.lock.content import HubRevision, is_below
from builder.system import store
from builder.system.extras import needs

_ENDPOINT, _TOKEN = "HF_ENDPOINT", "HF_TOKEN"


@dataclass(frozen=True, kw_only=True, slots=True)
class HubFile:
    """A file of a repository; `sha256` is None if the hub does not say it."""

    path: str
    size: int
    sha256: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Repository:
    """The files of a repository at a commit; `token` says that they are not for everyone."""

    revision: HubRevision
    token: bool
    files: tuple[HubFile, ...]


def look_up(kind: str, repo: str, revision: str) -> Repository:
    """Return what a revision of a repository is now. Raise `FetchError`, `NetworkError`,
    `MissingExtraError`."""
    with _translated(kind, repo, revision):
        import huggingface_hub

        api = huggingface_hub.HfApi()
        _check_endpoint(api.endpoint)
        ask = api.dataset_info if kind == "dataset" else api.model_info
        info: Any = ask(repo, revision=revision, files_metadata=True)
        files = tuple(
            HubFile(
                path=file.rfilename,
                size=file.size or 0,
                sha256=file.lfs.sha256 if file.lfs else None,
            )
            for file in info.siblings or ()
        )
        endpoint = api.endpoint.rstrip("/")
    for file in files:
        if not file.path or not is_below(file.path):
            raise FetchError(f"the {kind} {repo} has a file of the name {file.path!r}")
    return Repository(
        revision=HubRevision(kind=kind, endpoint=endpoint, repo=repo, commit=str(info.sha)),
        token=bool(info.private or info.gated),
        files=files,
    )


def fetch(hub: HubRevision, path: str) -> str:
    """Fetch a file of a repository into the store, and return its SHA-256. Raise `FetchError`,
    `NetworkError`, `StorageError`, `MissingExtraError`."""
    folder = store.folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=".hub-", dir=folder)
    except OSError as error:
        raise from_os_error(error, f"writing `{folder}`") from error
    with temporary as place:
        with _translated(hub.kind, hub.repo, hub.commit):
            import huggingface_hub

            fetched = huggingface_hub.hf_hub_download(
                hub.repo,
                path,
                repo_type=hub.kind,
                revision=hub.commit,
                endpoint=hub.endpoint,
                local_dir=place,
            )
        return store.adopt(Path(str(fetched)))


def _check_endpoint(endpoint: str) -> None:
    parts = urlsplit(endpoint)
    if parts.username or parts.password:
        raise FetchError(
            f"{_ENDPOINT} contains a user name or password, which would be in the lock",
            hint=f"set {_TOKEN} instead",
        )


@contextlib.contextmanager
def _translated(kind: str, repo: str, revision: str) -> Iterator[None]:
    with needs("hub"):
        from huggingface_hub import errors, get_token
        from huggingface_hub.utils import disable_progress_bars, logging  # type: ignore[attr-defined]
    disable_progress_bars()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call] # it reports each attempt
    name = f"the {kind} {repo}"
    try:
        yield
    except TemplateError:
        raise
    except errors.GatedRepoError as error:
        raise FetchError(
            f"{name} is only for those whom its owner has accepted",
            hint=f"ask for access on its page, and set {_TOKEN} to a token of that account",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FetchError(
            f"{name} has no revision {revision!r}", hint="correct `revision` in the spec"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FetchError(
            f"there is no {kind} {repo} on the hub, or it is private",
            hint=f"correct `repo`; for a private one, set {_TOKEN} to a token that may read it",
        ) from error
    except (errors.EntryNotFoundError, errors.HFValidationError) as error:
        raise FetchError(f"{name} cannot be fetched: {_first_line(error, get_token())}") from error
    except errors.OfflineModeIsEnabled as error:
        raise NetworkError(
            f"{name} is not in the store, and HF_HUB_OFFLINE forbids to fetch it",
            hint="unset HF_HUB_OFFLINE, and run the same command again",
        ) from error
    # Also the errors of the HTTP client, which differs between versions of the library.
    except Exception as error:
        raise NetworkError(
            f"{name} cannot be fetched: {_first_line(error, get_token())}",
            hint=f"check the network, {_ENDPOINT} and {_TOKEN}, and run the same command again",
        ) from error


def _first_line(error: Exception, token: str | None) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    return text.replace(token, f"<{_TOKEN}>") if token else text
