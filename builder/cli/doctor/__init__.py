"""Checks of this machine, the project and the accounts of its targets, by trying them.

`machine` only looks; `live` builds, runs and removes a template on E2B.
"""

from __future__ import annotations

from builder.cli.doctor.machine import Finding, examine

__all__ = ["Finding", "examine"]
