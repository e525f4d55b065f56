"""The certificates that connections of this program trust."""

from __future__ import annotations

import functools
import ssl

import httpx


@functools.cache
def certificates() -> ssl.SSLContext:
    """Trust the system's certificates as well as httpx's, as E2B's SDK does: a proxy or a cluster
    may have one that only the machine knows."""
    context = httpx.create_ssl_context()
    context.load_default_certs()
    return context
