"""Creating one sandbox on E2B: what an attempt asks for, and what its failure changes in the next.

An answer can get lost after the sandbox was created. All attempts have one key, by which E2B gives
the same sandbox again, and one mark in the metadata, by which the caller finds and ends what was
perhaps created.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import uuid
from collections.abc import Mapping
from functools import partial
from typing import Any

import e2b

from builder.system.tasks import run_to_completion
from builder.targets.e2b.account import Account
from builder.targets.e2b.failures import UnsettledError, kind_of, status_of
from builder.targets.e2b.retries import OF_APPLICATIONS, Patience

_logger = logging.getLogger(__name__)
_MARK = "template-builder-session"
_LONGEST = re.compile(r"Timeout cannot be greater than (\d+) hours?")
# While an attempt is under way, the next one with its key is refused.
_CONFLICTS = 3
_END_SECONDS = 20.0
# How long a sandbox of an account may live, by its key and the address of the API.
_longest_seconds: dict[tuple[str, str], int] = {}


class Creation:
    """`seconds` is how long the sandbox may live, as far as that is known.

    `doubtful` is whether one may exist that nobody was told of, `abandoned` that the next attempt
    will not give that one.
    """

    def __init__(
        self, account: Account, ref: str, *, seconds: int, metadata: Mapping[str, str] | None = None
    ) -> None:
        self._account, self._ref = account, ref
        self._owner = account.api_key, account.origin
        self.seconds = min(seconds, _longest_seconds.get(self._owner, seconds))
        self.mark = {_MARK: uuid.uuid4().hex}
        self._metadata = {**(metadata or {}), **self.mark}
        self._key = uuid.uuid4().hex
        self._conflicts = 0
        self.doubtful = self.abandoned = False

    async def sandbox(self, patience: Patience) -> e2b.AsyncSandbox:
        """Create it. Raises what the SDK raises; then, and when it is cancelled, no sandbox is left
        behind."""
        creating = asyncio.ensure_future(self._created(patience))
        try:
            return await asyncio.shield(creating)
        except asyncio.CancelledError:
            await run_to_completion(self._discard(creating))
            raise

    async def _created(self, patience: Patience) -> e2b.AsyncSandbox:
        held: str | None = None
        try:
            sandbox = await patience.wait_for(self._attempt)
            held = sandbox.sandbox_id
            return sandbox
        finally:
            if self.doubtful:
                await self._end_marked(but=held)

    async def _attempt(self) -> e2b.AsyncSandbox:
        at_domain = self._account.sandboxes_by_domain
        try:
            return await (_DomainSandbox if at_domain else e2b.AsyncSandbox).create(**self.options)
        except Exception as error:
            if not self.changed_by(error):
                raise
            if self.abandoned:
                await self._end_marked()  # it would count against the limit
            raise UnsettledError(str(error)) from error

    async def _discard(self, creating: asyncio.Future[e2b.AsyncSandbox]) -> None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_END_SECONDS):
                await asyncio.wait([creating])
                # A loop that ends cancels this, too; the same key gives the sandbox that was made.
                if creating.cancelled():
                    sandbox = await OF_APPLICATIONS.wait_for(self._attempt)
                else:
                    sandbox = creating.result()
                await OF_APPLICATIONS.wait_for(sandbox.kill)

    async def _end_marked(self, but: str | None = None) -> None:
        """End what was created though nobody was told of it."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_END_SECONDS):
                query = e2b.SandboxQuery(metadata=self.mark)
                listed = e2b.AsyncSandbox.list(query=query, **self._account.options)
                for sandbox in await OF_APPLICATIONS.wait_for(listed.next_items):
                    if sandbox.sandbox_id != but:
                        await OF_APPLICATIONS.wait_for(
                            partial(
                                e2b.AsyncSandbox.kill, sandbox.sandbox_id, **self._account.options
                            )
                        )

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of the next attempt."""
        return {
            "template": self._ref,
            "timeout": self.seconds,
            "metadata": self._metadata,
            "idempotency_key": self._key,
            **self._account.options,
        }

    def changed_by(self, error: Exception) -> bool:
        """Take the failure of an attempt; return True when it is not final, although its status
        says so."""
        status, self.abandoned = status_of(error), False
        if status == 400 and (limit := _LONGEST.search(str(error))):
            return self._shortened(int(limit[1]) * 3600)
        if status == 409:
            self._conflicts += 1
        if status in (409, 422):
            self.doubtful = True
            if status == 422 or self._conflicts % _CONFLICTS == 0:
                self._key, self.abandoned = uuid.uuid4().hex, True
            return True
        self.doubtful |= kind_of(error) == "fault"
        return False

    def _shortened(self, seconds: int) -> bool:
        if seconds >= self.seconds:
            return False
        if self._owner not in _longest_seconds:
            _logger.warning(
                "E2B ends each sandbox of this account after %d seconds at the latest: one that was"
                " asked for was to live for %d",
                seconds,
                self.seconds,
            )
        _longest_seconds[self._owner] = self.seconds = seconds
        self._key = uuid.uuid4().hex  # a key stands for one request, to the letter
        return True


class _DomainSandbox(e2b.AsyncSandbox):
    """A sandbox at the domain of its account, also where E2B_SANDBOX_URL is set: the SDK has no
    option that says so."""

    def __init__(self, **options: Any) -> None:
        config = options["connection_config"]
        config.get_sandbox_url = config.get_sandbox_direct_url = partial(_address, config)
        super().__init__(**options)


def _address(
    config: e2b.ConnectionConfig, sandbox_id: str, domain: str | None, port: int | None = None
) -> str:
    host = config.get_host(sandbox_id, domain or config.domain, port or config.envd_port)
    return f"https://{host}"
