"""What this machine, this project and the accounts of its targets can do, each found out by trying.

`machine` looks; `live` builds, runs and removes a template of its own on E2B.
"""

from __future__ import annotations

from builder.cli.doctor.machine import Finding, examine

__all__ = ["Finding", "examine"]
