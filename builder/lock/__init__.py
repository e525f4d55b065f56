"""Lock a variant to exact packages: the latest (`resolve`), or those committed (`committed`)."""

from builder.lock.values import Lock, StageLock

__all__ = ["Lock", "StageLock"]
