from __future__ import annotations

from builder import registry
from builder.registry.model import Verified
from tests.conftest import Command
from tests.support.clouds import Place
from tests.support.e2b_server import Server
from tests.support.records import faults


def test_registry_is_put_back_from_the_cloud(place: Place, cloud: Server, command: Command) -> None:
    """When the file is lost, `registry rebuild` finds the builds by their tags, runs their checks
    again, and what resolves is what resolved before."""
    place.build("one", "four")
    path = place.folder / "registry.json"
    before = {name: registry.resolve(name, path=path) for name in ("one", "four")}
    place.edit("four", lambda text: f'{text}[env]\nA = "1"\n')  # built from another spec than now's
    path.write_text("{ not a registry")
    key = cloud.environment
    done = command("registry", "rebuild", "--target", "e2b", cwd=place.folder, **key)
    assert done.returncode == 0, done.stderr
    assert "it was moved to" in done.stderr
    assert len(list(place.folder.glob("registry.json.unreadable-*"))) == 1
    assert {name: registry.resolve(name, path=path) for name in before} == before
    assert faults(path) == []
    one, four = registry.lookup("one", path=path), registry.lookup("four", path=path)
    assert one.build.verified == Verified(
        checks=("import packaging", "import idna", "a sum"), seconds=one.build.seconds
    )
    assert one.build.inputs["packages"]
    assert four.build.verified == Verified(checks=("a sandbox opens and lists its packages",))
    assert "iniconfig" in four.packages
    again = command("registry", "rebuild", "--target", "e2b", cwd=place.folder, **key)
    assert again.stdout == "no build is missing that e2b has\n"
    assert not cloud.running
