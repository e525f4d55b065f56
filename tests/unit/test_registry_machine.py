from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from builder import operations, record, registry
from builder.errors import (
    RevokedError,
    SelectionError,
    TemplateError,
    TemplateLookupError,
    UnknownBuildError,
    UnknownChannelError,
)
from builder.operations.retention import Keep, needed
from builder.project import Project
from builder.record import store
from builder.registry import history
from builder.registry.model import Entry
from builder.render import Rendered
from builder.system import files
from builder.system.events import discard
from tests.conftest import BASE
from tests.support.options import rounds
from tests.support.records import environment
from tests.support.samples import load, rendered_of, verified_of

NAMES = ("one", "two")
VERSIONS = ("1.0", "1.1", "2.0")
CHANNELS = ("stable", "beta")


class PowerFailureError(Exception):
    """The machine goes off."""


class Registry(RuleBasedStateMachine):
    """Any order of what people and programs do to one registry file, on a target without a cloud.

    The model is the smallest that says what must hold: what was ever recorded, and what is revoked.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        root = Path(self.folder.name)
        specs = {
            name: f"schema = 1\nname = '{name}'\nextends = '_base'\n[python]\npackages = ['idna']\n"
            for name in NAMES
        }
        self.variants = load(root, _base=BASE, **specs)
        self.project = Project.find(root)
        self.path = Path(self.project.registry)
        self.recorded: set[tuple[str, str]] = set()
        self.revoked: dict[tuple[str, str], set[str]] = {}
        self.contents: dict[str, str] = {}
        self.held: set[tuple[str, str]] = set()
        self.events: dict[str, list[Any]] = {name: [] for name in NAMES}
        self.versions: dict[tuple[str, str], str] = {}

        cache = {"TEMPLATE_BUILDER_CACHE_DIR": str(root / "cache")}
        self.environment = mock.patch.dict(os.environ, cache)
        self.environment.start()

    def teardown(self) -> None:
        self.environment.stop()
        self.folder.cleanup()

    def entry(self, name: str) -> dict[str, Any]:
        if not self.path.exists():
            return {}
        found: dict[str, Any] = json.loads(self.path.read_text())["templates"]
        entry: dict[str, Any] = found.get(name, {}).get("local", {})
        return entry

    def usable(self, name: str, ref: str) -> bool:
        return (name, ref) in self.recorded and not self.revoked.get((name, ref))

    def rendered(self, name: str, version: str) -> Rendered:
        return rendered_of(self.variants[name], version=version)

    @rule(
        name=st.sampled_from(NAMES),
        version=st.sampled_from(VERSIONS),
        channel=st.sampled_from(CHANNELS),
        crash=st.sampled_from([None, None, None, "before", "after"]),
        release=st.booleans(),
    )
    def build(
        self, name: str, version: str, channel: str, crash: str | None, release: bool
    ) -> None:
        rendered = self.rendered(name, version)
        verified = verified_of(rendered, packages={"idna": version})
        ref = verified.built.ref
        refused = f"idna=={version}" in self.contents or bool(self.revoked.get((name, ref)))
        write = files.atomic_write
        before = self.entry(name).get("channels", {}).get(channel)

        def failing(*arguments: Any, **options: Any) -> None:
            if crash == "after":
                write(*arguments, **options)
            raise PowerFailureError

        try:
            with mock.patch.object(store, "atomic_write", failing if crash else write):
                record.record(
                    self.path, verified, rendered, by="x", channel=channel, release=release
                )
        except RevokedError:
            assert refused
            return
        except PowerFailureError:
            if crash == "before":
                return
        assert not refused
        if (name, ref) not in self.versions:
            environment(Path(self.folder.name) / "cache", ref)
        self.recorded.add((name, ref))
        self.versions[name, ref] = version
        if release:
            self.held.discard((name, channel))
        kept = (name, channel) in self.held
        assert self.entry(name)["channels"][channel] == (before if kept else ref)

    def _moved(self, name: str, channel: str, ref: str) -> None:
        assert self.usable(name, ref), "a channel was moved to what may not be used"
        assert self.entry(name)["channels"][channel] == ref

    @precondition(lambda self: self.recorded)
    @rule(data=st.data(), channel=st.sampled_from(CHANNELS))
    def promote(self, data: st.DataObject, channel: str) -> None:
        name, ref = data.draw(st.sampled_from(sorted(self.recorded)))
        try:
            record.move(
                self.path,
                record.Change(name=name, target="local", by="x", channel=channel),
                ref,
                action="promote",
            )
        except RevokedError:
            assert not self.usable(name, ref)
            return
        self.held.discard((name, channel))
        self._moved(name, channel, ref)

    @precondition(lambda self: self.recorded)
    @rule(
        data=st.data(),
        channel=st.sampled_from(CHANNELS),
        steps=st.integers(min_value=1, max_value=3),
    )
    def rollback(self, data: st.DataObject, channel: str, steps: int) -> None:
        name = data.draw(st.sampled_from(sorted({name for name, _ in self.recorded})))
        before = self.entry(name).get("channels", {}).get(channel)
        try:
            moved = operations.rollback(
                self.project,
                operations.ChannelRequest(name=name, channel=channel, target="local"),
                None,
                steps=steps,
                report=discard,
            )
        except UnknownBuildError:
            assert self.entry(name).get("channels", {}).get(channel) == before
            return
        assert moved.before == before != moved.ref
        self.held.add((name, channel))
        self._moved(name, channel, moved.ref)

    @rule(name=st.sampled_from(NAMES), channel=st.sampled_from(CHANNELS))
    def unhold(self, name: str, channel: str) -> None:
        before = self.entry(name).get("channels", {}).get(channel)
        lifted = record.unhold(
            self.path, record.Change(name=name, target="local", by="x", channel=channel)
        )
        assert bool(lifted) == ((name, channel) in self.held)
        self.held.discard((name, channel))
        assert self.entry(name).get("channels", {}).get(channel) == before

    @precondition(lambda self: self.recorded)
    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        name, ref = data.draw(st.sampled_from(sorted(self.recorded)))
        record.revoke(self.path, (name, "local", ref), reason="bad", by="x")
        self.revoked.setdefault((name, ref), set()).add("build")

    @rule(version=st.sampled_from(VERSIONS))
    def revoke_package(self, version: str) -> None:
        content = record.Content.parse("package", f"idna=={version}")
        record.revoke(self.path, content, reason="a hole", by="x")
        self.contents[f"idna=={version}"] = str(content)
        for key in self.recorded:
            if self.versions[key] == version:
                self.revoked.setdefault(key, set()).add(str(content))

    @precondition(lambda self: any("build" in causes for causes in self.revoked.values()))
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        marked = sorted(key for key, causes in self.revoked.items() if "build" in causes)
        name, ref = data.draw(st.sampled_from(marked))
        record.restore(self.path, (name, "local", ref), by="x")
        self.revoked[name, ref].discard("build")

    @precondition(lambda self: self.contents)
    @rule(data=st.data())
    def restore_package(self, data: st.DataObject) -> None:
        package = data.draw(st.sampled_from(sorted(self.contents)))
        record.restore(self.path, record.Content.parse("package", package), by="x")
        cause = self.contents.pop(package)
        for causes in self.revoked.values():
            causes.discard(cause)

    @precondition(lambda self: self.recorded)
    @rule(
        data=st.data(),
        others=st.lists(st.sampled_from(CHANNELS), unique=True),
        pointing=st.booleans(),
        build=st.booleans(),
    )
    def remove(self, data: st.DataObject, others: list[str], pointing: bool, build: bool) -> None:
        name, ref = data.draw(st.sampled_from(sorted(self.recorded)))
        builds = [ref] if build else []
        before = self.entry(name).get("channels", {})
        channels = [c for c, to in before.items() if to == ref] if pointing else others
        try:
            record.remove(
                self.path,
                record.Removal(
                    name=name, target="local", builds=tuple(builds), channels=tuple(channels)
                ),
                by="x",
            )
        except UnknownChannelError:
            assert not set(channels) <= set(before)
            return
        except SelectionError:
            assert build
            assert "build" in self.revoked.get((name, ref), set()) or any(
                to == ref for c, to in before.items() if c not in channels
            )
            return
        self.recorded -= {(name, ref) for ref in builds}
        self.held -= {(name, channel) for channel in channels}
        left = {channel: to for channel, to in before.items() if channel not in channels}
        assert self.entry(name)["channels"] == left

    @rule()
    def repair(self) -> None:
        if self.path.exists():
            assert record.repair(self.path, by="x") == ([], [])

    @rule(newest=st.integers(1, 3), steps=st.integers(0, 3))
    def clean_up(self, newest: int, steps: int) -> None:
        for name in NAMES:
            entry = self.entry(name)
            kept = needed(Entry.from_json(entry), Keep(newest=newest, steps=steps))
            assert set(entry.get("channels", {}).values()) <= set(kept)
            good = {ref for ref in entry.get("builds", {}) if self.usable(name, ref)}
            assert not good or good & set(kept)

    @invariant()
    def nothing_is_lost(self) -> None:
        for name in NAMES:
            entry = self.entry(name)
            assert {ref for n, ref in self.recorded if n == name} == set(entry.get("builds", {}))
            events = entry.get("history", [])
            assert events[: len(self.events[name])] == self.events[name], "history was rewritten"
            self.events[name] = events

    @invariant()
    def what_is_held_is_told(self) -> None:
        for name in NAMES:
            held = {channel for n, channel in self.held if n == name}
            assert set(self.entry(name).get("holds", {})) == held

    @invariant()
    def it_fits_to_its_history(self) -> None:
        if self.path.exists():
            assert not list(history.faults(registry.load(self.path).checked().templates))

    @invariant()
    def what_resolves_was_recorded_and_may_be_used(self) -> None:
        for name in NAMES:
            for channel in CHANNELS:
                try:
                    ref = registry.resolve(name, channel=channel, target="local", path=self.path)
                except TemplateLookupError:
                    to = self.entry(name).get("channels", {}).get(channel)
                    assert to is None or not self.usable(name, to)
                except TemplateError:
                    assert not self.path.exists()
                else:
                    assert self.usable(name, ref)


Registry.TestCase.settings = settings(
    max_examples=rounds(25),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestRegistry = pytest.mark.slow(pytest.mark.chance(Registry.TestCase))
