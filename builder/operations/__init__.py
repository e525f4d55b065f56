"""Operations on recorded builds."""

from builder.operations.channels import ChannelRequest, Moved, adopt, promote, rollback, unhold
from builder.operations.gc import Candidate, find_unused, remove_unused
from builder.operations.outdated import Outdated, outdated
from builder.operations.rebuild import rebuild
from builder.operations.removing import removal_of, remove
from builder.operations.reverify import Reverified, reverify

__all__ = [
    "Candidate",
    "ChannelRequest",
    "Moved",
    "Outdated",
    "Reverified",
    "adopt",
    "find_unused",
    "outdated",
    "promote",
    "rebuild",
    "removal_of",
    "remove",
    "remove_unused",
    "reverify",
    "rollback",
    "unhold",
]
