"""Lock a variant to exact packages: the latest, or those of the committed lock."""

from builder.lock.resolve import Lock, StageLock, lock_latest

__all__ = ["Lock", "StageLock", "lock_latest"]
