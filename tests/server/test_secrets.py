from __future__ import annotations

from tests.conftest import Command
from tests.support.clouds import Place
from tests.support.e2b_server import Server
from tests.support.files import files_with


def test_key_of_an_account_stays_there(place: Place, cloud: Server, command: Command) -> None:
    """Building on E2B and failing there puts the account's key into no file and no output, neither
    here nor in a step that is sent."""
    outputs, never = [], ("--precheck", "never")
    for arguments in (["build", "one", "four", *never], ["plan", "--json"]):
        done = command(*arguments, "--target", "e2b", cwd=place.folder, **cloud.environment)
        outputs.append(done.stdout + done.stderr)
    path = place.folder / "variants" / "four.toml"
    path.write_text(path.read_text() + '[[verify]]\nname = "x"\ncode = "import nothing"\n')
    done = command(
        "build", "four", "--target", "e2b", *never, cwd=place.folder, **cloud.environment
    )
    assert done.returncode == 21
    outputs.append(done.stdout + done.stderr)
    assert not [text for text in outputs if cloud.key in text]
    assert files_with(cloud.key, place.folder) == []
    sent = repr([(build.request, build.log) for build in cloud.builds()])
    assert "pip" in sent
    assert cloud.key not in sent
