"""Check a build in real sandboxes."""

from builder.verify.verification import Promises, Verified, first_use_pairs, verify

__all__ = ["Promises", "Verified", "first_use_pairs", "verify"]
