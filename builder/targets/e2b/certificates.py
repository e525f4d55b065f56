"""What connections of our own trust."""

from __future__ import annotations

import functools
import ssl

import httpx


@functools.cache
def certificates() -> ssl.SSLContext:
    """The system's certificates, as E2B's SDK does, beside those that httpx brings: a proxy or a
    cluster may have one that the machine alone knows."""
    context = httpx.create_ssl_context()
    context.load_default_certs()
    return context
