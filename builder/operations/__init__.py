"""What is done to builds after they were recorded."""

from builder.operations.channels import Moved, adopt, promote, rollback, unhold
from builder.operations.gc import Found, find_waste, remove_waste
from builder.operations.outdated import Outdated, outdated
from builder.operations.rebuild import rebuild
from builder.operations.removing import Removal, removal_of, remove
from builder.operations.reverify import Reverified, reverify

__all__ = [
    "Found",
    "Moved",
    "Outdated",
    "Removal",
    "Reverified",
    "adopt",
    "find_waste",
    "outdated",
    "promote",
    "rebuild",
    "removal_of",
    "remove",
    "remove_waste",
    "reverify",
    "rollback",
    "unhold",
]
