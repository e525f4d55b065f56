"""Create one sandbox on E2B, in several attempts if need be.

A response can be lost after the sandbox was created. So all attempts share an idempotency key, for
which E2B returns the same sandbox again, and a mark in the metadata, by which a sandbox that no
attempt returned is found and ended.
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

from builder.sandbox.network import Network
from builder.system.tasks import run_to_completion
from builder.targets.e2b.account import Account
from builder.targets.e2b.failures import UnsettledError, kind_of, status_of
from builder.targets.e2b.retries import OF_APPLICATIONS, Patience

_logger = logging.getLogger(__name__)
_MARK = "template-builder-session"
_LONGEST = re.compile(r"Timeout cannot be greater than (\d+) hours?")
# E2B refuses a second attempt with the same key while the first one is running.
_CONFLICTS = 3
_END_SECONDS = 20.0
# How long sandboxes of an account may live, by its key and the address of the API.
_longest_seconds: dict[tuple[str, str], int] = {}


class Creation:
    """The creation of one sandbox.

    `seconds` is how long it may live, as far as is known. If it is `_doubtful`, a sandbox may exist
    that no attempt returned; if it is `_abandoned`, the next attempt will not return it either.
    """

    def __init__(
        self,
        account: Account,
        ref: str,
        *,
        seconds: int,
        metadata: Mapping[str, str] | None = None,
        network: Network | None = None,
    ) -> None:
        self._account, self._ref = account, ref
        self._owner = account.api_key, account.origin
        self.seconds = min(seconds, _longest_seconds.get(self._owner, seconds))
        self._mark = {_MARK: uuid.uuid4().hex}
        self._network = _network_options(network)
        self._metadata = {**(metadata or {}), **self._mark}
        self._key = uuid.uuid4().hex
        self._conflicts = 0
        self._doubtful = self._abandoned = False

    async def sandbox(self, patience: Patience) -> e2b.AsyncSandbox:
        """Create it.

        Raises what the SDK raises. On an error or a cancellation no sandbox is left.
        """
        creating = asyncio.ensure_future(self._created(patience))
        try:
            return await asyncio.shield(creating)
        except asyncio.CancelledError:
            await run_to_completion(self._discard(creating))
            raise

    async def _created(self, patience: Patience) -> e2b.AsyncSandbox:
        sandbox: e2b.AsyncSandbox | None = None
        try:
            sandbox = await patience.wait_for(self._attempt)
            return sandbox
        finally:
            if self._doubtful:
                await self._end_marked(but=sandbox.sandbox_id if sandbox else None)

    async def _attempt(self) -> e2b.AsyncSandbox:
        kind = _DomainSandbox if self._account.sandboxes_by_domain else e2b.AsyncSandbox
        try:
            return await kind.create(
                template=self._ref,
                timeout=self.seconds,
                metadata=self._metadata,
                idempotency_key=self._key,
                **self._network,
                **self._account.options,
            )
        except Exception as error:
            if not self._adapts_to(error):
                raise
            if self._abandoned:
                await self._end_marked()  # it would count against the limit
            raise UnsettledError(str(error)) from error

    async def _discard(self, creating: asyncio.Future[e2b.AsyncSandbox]) -> None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_END_SECONDS):
                await asyncio.wait([creating])
                # An ending loop cancels `creating`, too; the same key returns its sandbox.
                if creating.cancelled():
                    sandbox = await OF_APPLICATIONS.wait_for(self._attempt)
                else:
                    sandbox = creating.result()
                await OF_APPLICATIONS.wait_for(sandbox.kill)

    async def _end_marked(self, but: str | None = None) -> None:
        """End sandboxes that no attempt returned."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_END_SECONDS):
                query = e2b.SandboxQuery(metadata=self._mark)
                listed = e2b.AsyncSandbox.list(query=query, **self._account.options)
                for sandbox in await OF_APPLICATIONS.wait_for(listed.next_items):
                    kill = partial(e2b.AsyncSandbox.kill, **self._account.options)
                    if sandbox.sandbox_id != but:
                        await OF_APPLICATIONS.wait_for(partial(kill, sandbox.sandbox_id))

    def _adapts_to(self, error: Exception) -> bool:
        """Change the next attempt after a failed one; return False if the failure is final."""
        status, self._abandoned = status_of(error), False
        if status == 400 and (limit := _LONGEST.search(str(error))):
            return self._shortened(int(limit[1]) * 3600)
        if status == 409:
            self._conflicts += 1
        if status in (409, 422):
            self._doubtful = True
            if status == 422 or self._conflicts % _CONFLICTS == 0:
                self._key, self._abandoned = uuid.uuid4().hex, True
            return True
        self._doubtful |= kind_of(error) == "fault"
        return False

    def _shortened(self, seconds: int) -> bool:
        if seconds >= self.seconds:
            return False
        if self._owner not in _longest_seconds:
            _logger.warning(
                "E2B ends every sandbox of this account within %d seconds, instead of the %d"
                " requested",
                seconds,
                self.seconds,
            )
        _longest_seconds[self._owner] = self.seconds = seconds
        self._key = uuid.uuid4().hex  # a key belongs to one exact request
        return True


def _network_options(network: Network | None) -> dict[str, Any]:
    """Return the SDK's options for a network; None leaves E2B's default."""
    if network is None:
        return {}
    if network.hosts:
        # E2B takes names of hosts only together with the denial of everything else.
        return {"network": {"allow_out": list(network.hosts), "deny_out": [e2b.ALL_TRAFFIC]}}
    return {"allow_internet_access": network.is_open}


class _DomainSandbox(e2b.AsyncSandbox):
    """A sandbox at its account's domain even if E2B_SANDBOX_URL is set: the SDK has no option for
    that."""

    def __init__(self, **options: Any) -> None:
        config = options["connection_config"]
        config.get_sandbox_url = config.get_sandbox_direct_url = partial(_address, config)
        super().__init__(**options)


def _address(
    config: e2b.ConnectionConfig, sandbox_id: str, domain: str | None, port: int | None = None
) -> str:
    host = config.get_host(sandbox_id, domain or config.domain, port or config.envd_port)
    return f"https://{host}"
