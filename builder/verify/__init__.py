"""What a build promises, asked of real sandboxes of it."""

from builder.verify.verification import Promises, Verified, first_use_pairs, verify

__all__ = ["Promises", "Verified", "first_use_pairs", "verify"]
