from __future__ import annotations

from tests.conftest import Command
from tests.support.clouds import Place
from tests.support.e2b_server import Server


def test_adopted_build_has_nothing_to_check(place: Place, cloud: Server, command: Command) -> None:
    """Of an adopted template a sandbox is opened, and it is said that there was nothing to check."""
    ref = place.build("four")["four"].ref
    assert command("adopt", "mine", ref, cwd=place.folder).returncode == 0
    done = command("verify", "mine", "--target", "e2b", cwd=place.folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"mine: 0 checks passed ({ref})\n"
        "  no checks are recorded: a sandbox started and listed its packages\n"
    )
    assert cloud.running == {}
