"""Inputs that nobody would write, made from ones that somebody did."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder import record, registry, spec
from builder.errors import FlattenError, RegistryError, SpecError, TemplateError
from builder.flatten import BaseConfig, flatten
from builder.registry import history, search
from builder.registry.model import contents
from builder.registry.references import find_build, split
from builder.render import render
from builder.runtime import WebhookReceiver
from builder.sandbox.execution import Output
from builder.targets.e2b import stream
from builder.targets.e2b.connection import Connection
from builder.targets.journal import Journal
from tests.conftest import BASE, LIGHT, ROOT
from tests.support.options import rounds
from tests.support.records import made
from tests.support.samples import lock_of
from tests.support.webhooks import PAYLOAD, SECRET, post

pytestmark = pytest.mark.soak
EXAMPLES = rounds(500)
# For one input: that is a hang. And for all of them together, on top of what was there before.
MILLISECONDS_EACH = 60_000
MEMORY_BYTES = 4 << 30

fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=MILLISECONDS_EACH,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(autouse=True)
def _bounded_memory() -> Iterator[None]:
    """What takes more memory fails here, and not the machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def mutated(seeds: list[str], tokens: list[str]) -> st.SearchStrategy[str]:
    """A seed with pieces of it removed, repeated, swapped, and others put in."""

    @st.composite
    def draw_one(draw: st.DrawFn) -> str:
        text = draw(st.sampled_from(seeds))
        for _ in range(draw(st.integers(1, 6))):
            at = draw(st.integers(0, len(text)))
            end = draw(st.integers(at, min(len(text), at + 60)))
            piece = draw(
                st.one_of(
                    st.sampled_from(
                        [*tokens, "", text[at:end] * 2, "\x00", "\n", "\r\n", "\\", '"']
                    ),
                    st.text(max_size=20),
                    st.integers(1, 3000).map(lambda count: "[" * count),
                    st.sampled_from(tokens).map(lambda token: token * 500),
                )
            )
            text = text[:at] + piece + text[end:]
        return text

    return draw_one() | st.text(max_size=300)


SPECS = [
    LIGHT,
    BASE.replace("    ", ""),
    *(path.read_text() for path in sorted((ROOT / "variants").glob("*.toml"))),
]
SPEC_TOKENS = [
    "[env]\n", "[[files]]\n", "[[verify]]\n", "extends = '_base'\n", "= {}", "= []", "= 1979-05-27",
    "= 1e999", "= nan", "= -0", "'''", "[python]\npackages = ['a; x']\n", "${A}", "{{ 7*7 }}", "../",
    "[[download]]\nurl = 'https://h/x'\ntarget = '/x'\n", "[[model]]\nrepo = 'a/b'\n", "extract = true\n",
    "\u2028", "\ufeff", "0x1", "1_000", "source = '/dev/zero'\ntarget = '/x'\n", "[[a.b]]\n",
]  # fmt: skip


@fuzzed
@given(text=mutated(SPECS, SPEC_TOKENS))
def test_any_spec_is_read_or_refused(text: str) -> None:
    """A spec is loaded and rendered, or refused with its problems; nothing else happens."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "variants")
        place.mkdir()
        (place / "_base.toml").write_text(BASE.replace("    ", ""))
        (place / "fuzzed.toml").write_text(text, newline="", encoding="utf-8", errors="replace")
        try:
            for variant in spec.load_variants(place):
                rendered = render(variant, lock_of(variant))
                flatten(rendered.content("Dockerfile").decode(), file="Dockerfile")
        except (SpecError, FlattenError) as error:
            assert error.problems  # noqa: PT017 - not to be loaded is not expected either


DOCKERFILES = [path.read_text() for path in sorted((ROOT / "generated").glob("*/Dockerfile"))] + [
    "FROM a AS b\nARG X=1\nRUN <<EOF\necho $X\nEOF\nFROM b\nCOPY --from=b --chmod=755 /a /b\nCMD x\n",
    'FROM a\nENV A="b c" D=e\nUSER u\nWORKDIR ${A}\nHEALTHCHECK CMD curl x\nENTRYPOINT ["a"]\n',
]
DOCKER_TOKENS = [
    "FROM ", "RUN ", "COPY ", "ADD ", "ARG ", "ENV ", "USER ", "WORKDIR ", "ONBUILD ", "SHELL ",
    "CMD ", "LABEL ", "VOLUME ", "EXPOSE ", "--mount=type=secret", "<<EOF\n", "EOF\n", "\\\n", "`",
    "# escape=`\n", "# syntax=x\n", "${A:-b}", "$", "${", '["', '"]', "--from=", "*", "scratch",
]  # fmt: skip


@fuzzed
@given(text=mutated(DOCKERFILES, DOCKER_TOKENS))
def test_any_dockerfile_is_flattened_or_refused(text: str) -> None:
    """A Dockerfile becomes steps, or is refused with file and line; nothing else happens."""
    try:
        flatten(text, file="Dockerfile", base=BaseConfig())
    except FlattenError as error:
        assert error.problems  # noqa: PT017


with tempfile.TemporaryDirectory() as _folder:
    _path, _ = made(Path(_folder), "1.0", "1.1")
    REGISTRIES = [_path.read_text(), (ROOT / "registry.json").read_text()]
REGISTRY_TOKENS = [
    '"channels": ', '"builds": ', '"history": ', '"templates": ', '"leaf": ', "{", "}", "[", "]",
    "null", "1e999", "NaN", "-1", '"\\ud800"', '"revoked": ', '"revoked_at": ', "true", ",",
    '\n    "leaf": {\n', '"version": ', "\n  },\n", '"stable": ',
]  # fmt: skip


@fuzzed
@given(text=mutated(REGISTRIES, REGISTRY_TOKENS))
def test_any_registry_is_read_or_refused(text: str) -> None:
    """A registry file is read, looked up in, checked, changed and repaired, or refused as such."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "registry.json")
        path.write_text(text, encoding="utf-8", errors="replace", newline="")
        for name in ("leaf", "tta-ml-minimal", ""):
            for target in ("local", "e2b", None):
                with contextlib.suppress(TemplateError):
                    registry.lookup(name, target=target, path=path)
        try:
            found = registry.load(path).checked()
        except RegistryError:
            with pytest.raises(RegistryError):
                record.update(path, lambda _data: None)
            return
        for fault in history.faults(found.templates):
            assert str(fault)
        for name in found.templates:
            with contextlib.suppress(TemplateError):
                assert find_build(found, *split(name, found)).name in found.templates
        record.repair(path, by="x")
        record.revoke(path, record.Content.parse("package", "idna==1.0"), reason="x", by="x")
        registry.load(path).checked()


@fuzzed
@given(text=mutated([REGISTRIES[0]], REGISTRY_TOKENS), name=st.sampled_from(["leaf", "le", "x"]))
def test_search_in_a_large_file_never_finds_what_is_not_there(text: str, name: str) -> None:
    """What is found by halving is what reading all of the file gives, or nothing is found."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "registry.json")
        path.write_text(text, encoding="utf-8", errors="replace", newline="")
        try:
            found = search.entry_of(name, str(path))
            whole = registry.load(path).templates
        except (ValueError, OSError, RegistryError):
            return
        if found is not None:
            entry = {"version": 1, "templates": {name: json.loads(found)}}
            assert contents(entry, path="").templates == {name: whole.get(name)}


ENTRY = json.dumps(
    {
        "name": "x",
        "digest": "sha256:1",
        "started_at": "2026-01-01T00:00:00Z",
        "template_id": "abc",
        "build_id": "b-1",
        "verifying": True,
        "forced": False,
        "foretold": 3,
    }
)


@fuzzed
@given(text=mutated([ENTRY], ["null", "{", "[", '"name": ', "1e999", "true", '"\\ud800"']))
def test_any_journal_file_is_an_entry_or_none(text: str) -> None:
    """A journal file that is not an entry is taken as none, and does not stop a run."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder), target="e2b")
        Path(folder, "e2b").mkdir()
        place = Path(folder, "e2b", "x.json")
        place.write_text(text, encoding="utf-8", errors="replace", newline="")
        entry = journal.read("x")
        assert entry is None or entry.name == "x"
        journal.names()
        journal.remove("x")


@fuzzed
@given(
    body=mutated([json.dumps(PAYLOAD)], ["null", "{", "[", "1e999", '"\\ud800"', "NaN", "true"]),
    signed=st.booleans(),
    headers=st.dictionaries(
        st.sampled_from(
            ["e2b_signature_version", "e2b_delivery_id", "content_length", "e2b_signature"]
        ),
        st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40),
    ),
)
def test_any_delivery_gets_an_answer(body: str, signed: bool, headers: dict[str, str]) -> None:
    """Whatever is delivered to the webhook receiver, it answers with a status, and raises nothing."""
    given_headers = headers | ({} if signed else {"e2b_signature": "x"})
    answer = post(WebhookReceiver(SECRET), body.encode("utf-8", "replace"), **given_headers)
    assert answer.status_code in (200, 400, 401, 403, 411, 413)


EVENTS = [
    "\n".join(
        json.dumps(event)
        for event in (
            {"type": "number_of_executions", "execution_count": 1},
            {"type": "stdout", "text": "a", "timestamp": "1"},
            {"type": "stderr", "text": "b", "timestamp": "1"},
            {"type": "keepalive"},
            {"type": "result", "text": "1", "html": "<b>", "png": "aGk=", "is_main_result": True},
            {"type": "error", "name": "E", "value": "v", "traceback": "t"},
            {"type": "end_of_execution"},
        )
    )
]


class _Unconnected(Connection):
    """The part that reads a response of the code service."""

    def __init__(self) -> None:
        """Without a sandbox."""
        self.worded, self.magic = str, ""


@fuzzed
@given(
    text=mutated(EVENTS, ['"type": ', "null", "{", "[", '"\\ud800"', "1e999", "\n", '"text": ']),
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=5),
    long=st.sampled_from([5, 1 << 20]),
)
def test_any_answer_of_the_code_service_is_output_or_refused(
    text: str, sizes: list[int], long: int
) -> None:
    """However the lines of an execution look, wherever they are cut and whatever counts as a long
    one, they come out as output or as an error in words."""
    content = text.encode("utf-8", "replace")

    async def parts() -> Any:
        at = 0
        while at < len(content):
            size = sizes[at % len(sizes)]
            yield content[at : at + size]
            at += size

    async def read() -> None:
        output = Output(1000)
        try:
            await _Unconnected()._read(httpx.Response(200, content=parts()), output)
        except TemplateError:
            return
        execution = output.execution(0.0)
        assert len(execution.stdout) <= 2000

    with mock.patch.multiple(stream, _LONG_LINE=long, _SHORT_STRING=long):
        asyncio.run(read())
