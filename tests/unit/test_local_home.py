from __future__ import annotations

from pathlib import Path

from builder.targets.local.home import FETCHED, copy_home, set_links


def test_homes_link_to_fetched_content_wherever_it_is(tmp_path: Path) -> None:
    """A home has links to what its environment has fetched, also after the environment was moved;
    a file of the template inside of a fetched folder is there, too, and goes before it."""
    environment = tmp_path / "environment"
    model = environment / FETCHED / "models" / "own"
    model.mkdir(parents=True)
    (model / "config.json").write_text("fetched")
    (model / "weights").write_text("weights")
    (environment / FETCHED / "table.csv").write_text("a,b")
    (environment / "home" / "models" / "own").mkdir(parents=True)
    (environment / "home" / "models" / "own" / "config.json").write_text("of the template")
    set_links(environment, ["models/own", "table.csv"])
    moved = tmp_path / "moved"
    environment.rename(moved)
    copy_home(moved, tmp_path / "home")
    home = tmp_path / "home"
    assert (home / "table.csv").readlink() == moved / FETCHED / "table.csv"
    assert (home / "models" / "own" / "weights").read_text() == "weights"
    assert (home / "models" / "own" / "config.json").read_text() == "of the template"
