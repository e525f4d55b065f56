from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest
import tomli_w
from e2b_dockerfile_utils import parse_dockerfile_ast
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

from builder.errors import SpecError, StaleLockError
from builder.flatten import flatten
from builder.lock.committed import read_committed
from builder.lock.content import LockedDownload
from builder.plan.inputs import inputs_of
from builder.plan.steps import program_of, step_keys_of
from builder.render import Rendered, render, write
from builder.spec import Variant
from builder.targets.e2b.program import not_provided
from builder.targets.local.target import LocalTarget
from tests.conftest import BASE
from tests.support.samples import load, lock_of, problems

LEAF = "schema = 1\nname = 'leaf'\nextends = '_base'\n"
HASH = "5" * 64
MIB = 1 << 20
DOWNLOADS = f"""
[resources]
memory-mb = 256
[[download]]
url = "https://host.example/data.csv?version=1"
target = "/home/user/data/table.csv"
[[download]]
url = "https://host.example/tool-1.2.tar.gz"
sha256 = "{HASH}"
target = "/opt/tool"
extract = true
[[download]]
url = "https://host.example/weights.bin"
target = "/opt/weights.bin"
owner = "user"
mode = "0640"
[python]
packages = ["idna"]
"""
SIZES = ((1000, None), (30 * MIB, 32 * MIB), (32 * MIB + 1, None))


class DockerfileSnapshot(SingleFileSnapshotExtension):
    """One readable file a snapshot."""

    _write_mode = WriteMode.TEXT
    file_extension = "Dockerfile"


def loaded(folder: Path, text: str = DOWNLOADS) -> Variant:
    return load(folder, _base=BASE, leaf=LEAF + text)["leaf"]


def rendered(variant: Variant, hashes: str = "012") -> Rendered:
    lock = lock_of(variant)
    downloads = tuple(
        LockedDownload(
            url=each.url, sha256=each.sha256 or digit * 64, size=size, unpacked_size=unpacked
        )
        for each, digit, (size, unpacked) in zip(
            variant.stages[1].downloads, hashes, SIZES, strict=True
        )
    )
    stage = dataclasses.replace(lock.stages[1], downloads=downloads)
    return render(variant, dataclasses.replace(lock, stages=(lock.stages[0], stage)))


def test_dockerfile(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    """What fits into an eighth of the memory is copied for its owner, the rest is fetched by a step,
    all before the Python packages."""
    text = rendered(loaded(tmp_path)).content("Dockerfile").decode()
    assert text == snapshot.use_extension(DockerfileSnapshot)


def test_step_knows_what_to_fetch(tmp_path: Path) -> None:
    """The step that fetches a file has its URL, hash, target, owner and mode."""
    result = rendered(loaded(tmp_path))
    (path,) = [file.path for file in result.files if file.path.startswith("fetch/")]
    assert json.loads(result.content(path)) == {
        "target": "/opt/weights.bin",
        "owner": "user",
        "mode": "0640",
        "extract": False,
        "files": [{"path": "", "url": "https://host.example/weights.bin", "sha256": "2" * 64}],
    }


def test_lock_is_committed_and_read_back(tmp_path: Path) -> None:
    """template.toml has each download with URL, hash and size, and a lock reads back from it; no
    content is in generated/."""
    variant = loaded(tmp_path)
    result = rendered(variant)
    write([result], tmp_path / "generated", all_variants=True)
    document = tomllib.loads((tmp_path / "generated" / "leaf" / "template.toml").read_text())
    assert document["lock"]["stages"][1]["downloads"] == [
        {"url": "https://host.example/data.csv?version=1", "sha256": "0" * 64, "bytes": 1000},
        {
            "url": "https://host.example/tool-1.2.tar.gz",
            "sha256": HASH,
            "bytes": 30 * MIB,
            "extracted-bytes": 32 * MIB,
        },
        {"url": "https://host.example/weights.bin", "sha256": "2" * 64, "bytes": 32 * MIB + 1},
    ]
    assert document["stages"][1]["downloads"][2] == {
        "url": "https://host.example/weights.bin",
        "target": "/opt/weights.bin",
        "owner": "user",
        "mode": "0640",
        "extract": False,
    }
    assert read_committed([variant], tmp_path / "generated") == {"leaf": result.lock}
    assert not (tmp_path / "generated" / "leaf" / "fetched").exists()


STALE = {
    ("data.csv?version=1", "data.csv?version=2"): [
        "the download https://host.example/data.csv?version=1 was removed",
        "the download https://host.example/data.csv?version=2 was added",
    ],
    (HASH, "6" * 64): [
        f"`sha256` of https://host.example/tool-1.2.tar.gz: {HASH} → {'6' * 64}",
    ],
    ("extract = true", "extract = false"): [
        "`extract` of https://host.example/tool-1.2.tar.gz is now false",
    ],
}


@pytest.mark.parametrize(("old", "new"), STALE)
def test_stale_locks_are_refused(tmp_path: Path, old: str, new: str) -> None:
    """A committed lock is refused if a URL, a hash or `extract` has changed since."""
    write([rendered(loaded(tmp_path))], tmp_path / "generated", all_variants=True)
    changed = loaded(tmp_path, DOWNLOADS.replace(old, new))
    error = read_committed([changed], tmp_path / "generated")["leaf"]
    assert isinstance(error, StaleLockError)
    assert error.message.splitlines() == [
        "the committed lock of `leaf` does not match its spec:",
        *(f"  variants/leaf.toml: {line}" for line in STALE[old, new]),
    ]


def test_damaged_locks_are_refused(tmp_path: Path) -> None:
    """A hash or size in template.toml that is none is refused, with the download."""
    variant = loaded(tmp_path)
    write([rendered(variant)], tmp_path / "generated", all_variants=True)
    path = tmp_path / "generated" / "leaf" / "template.toml"
    text = path.read_text()
    for old, new, message in (
        ("0" * 64, "$(x)", "`sha256` of the download 'https://host.example/data.csv?version=1'"),
        ("bytes = 1000", "bytes = -1", "`bytes` of the download"),
    ):
        path.write_text(text.replace(old, new))
        error = read_committed([variant], tmp_path / "generated")["leaf"]
        assert isinstance(error, StaleLockError)
        assert message in error.message


MISTAKES = """
[[download]]
url = "ftp://host.example/x"
target = "/opt/x"
[[download]]
url = "https://user:{}@host.example/x"
target = "/opt/y"
[[download]]
url = "https://host.example/x"
sha256 = "ABC"
target = "opt/z"
owner = "nobody"
mode = "644"
unpack = true
"""


def test_mistakes_have_their_place(tmp_path: Path) -> None:
    """Every mistake in a download is reported at once, with file, line and key."""
    load_error = MISTAKES.format("x")
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "_base.toml").write_text(BASE.replace("    ", ""))
    (tmp_path / "variants" / "leaf.toml").write_text(LEAF + load_error)
    mistakes = problems(tmp_path / "variants")
    assert mistakes == [
        "variants/leaf.toml:9:1: `download[1].url`: contains a URL with a password; everyone who can"
        " use a template can read its content. Pass secrets to a sandbox when you open it"
    ]
    (tmp_path / "variants" / "leaf.toml").write_text(LEAF + MISTAKES.replace("user:{}@", ""))
    assert problems(tmp_path / "variants") == [
        "variants/leaf.toml:6:1: `download[0].url`: 'ftp://host.example/x' is not an http or https"
        " URL",
        "variants/leaf.toml:13:1: `download[2].sha256`: 'ABC' is not a SHA-256 hash: 64 digits of"
        " 0-9 and a-f",
        "variants/leaf.toml:14:1: `download[2].target`: 'opt/z' is not an absolute POSIX path of"
        " letters, digits and ._+@%~=,- without `.` or `..` in it",
        "variants/leaf.toml:15:1: `download[2].owner`: 'nobody' is not one of 'root' or 'user'",
        "variants/leaf.toml:16:1: `download[2].mode`: '644' is not an octal mode such as '0644'",
        "variants/leaf.toml:17:1: `download[2].unpack`: unknown key (known here: extract, mode,"
        " owner, sha256, target, url)",
    ]


def test_targets_do_not_collide(tmp_path: Path) -> None:
    """A target that is written twice, and one below a downloaded file, are mistakes."""
    text = """
[[files]]
source = "a.txt"
target = "/opt/a"
[[download]]
url = "https://host.example/a"
target = "/opt/a"
[[download]]
url = "https://host.example/b"
target = "/opt/a/b"
[[download]]
url = "https://host.example/c"
target = "/home/user"
"""
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "a.txt").write_text("x")
    (tmp_path / "variants" / "_base.toml").write_text(BASE.replace("    ", ""))
    (tmp_path / "variants" / "leaf.toml").write_text(LEAF + text)
    assert problems(tmp_path / "variants") == [
        "variants/leaf.toml:10:1: `download[0].target`: '/opt/a' is written twice",
        "variants/leaf.toml:13:1: `download[1].target`: '/opt/a/b' is below '/opt/a', a file of"
        " variants/leaf.toml",
        "variants/leaf.toml:16:1: `download[2].target`: '/home/user' is a folder (add the name of the"
        " file)",
    ]


def test_plan_names_the_download_that_changed(tmp_path: Path) -> None:
    """The inputs of a build name each download by its target, with rights, URL and hash."""
    inputs = inputs_of(rendered(loaded(tmp_path)))["spec"]
    assert {key: value for key, value in inputs.items() if "download" in key} == {
        "leaf: download /home/user/data/table.csv": "user 0644"
        " https://host.example/data.csv?version=1 000000000000",
        "leaf: download /opt/tool": "root https://host.example/tool-1.2.tar.gz 555555555555"
        " extracted",
        "leaf: download /opt/weights.bin": "user 0640"
        " https://host.example/weights.bin 222222222222",
    }


def test_plan_says_how_each_is_delivered(tmp_path: Path) -> None:
    """For a target with layers it is said of each download whether it is copied or fetched by a
    step, and why."""
    lines = [each.described(256) for each in rendered(loaded(tmp_path)).fetched]
    assert lines == [
        "https://host.example/data.csv?version=1 → /home/user/data/table.csv: 1.0 kB, copied",
        "https://host.example/tool-1.2.tar.gz → /opt/tool: 33.6 MB, copied",
        "https://host.example/weights.bin → /opt/weights.bin: 33.6 MB, fetched by a step that checks"
        " the hash: with 256 MiB of memory, a COPY may have 33.6 MB on E2B",
    ]


def test_other_content_changes_its_steps_alone(tmp_path: Path) -> None:
    """On E2B, a download that changes has other steps of its own and no others; a package that
    changes has the same steps for all downloads."""
    variant = loaded(tmp_path)
    before = rendered(variant)
    program = program_of(before)
    keys = step_keys_of(before, program)

    def changed(after: Rendered) -> list[str]:
        pairs = zip(program.steps, keys, step_keys_of(after, program_of(after)), strict=True)
        return [step.args[0].splitlines()[-1] for step, old, new in pairs if old != new]

    order = next(file.path for file in before.files if file.path.startswith("fetch/"))
    assert changed(rendered(variant, "013")) == [
        order,
        f"/bin/sh -c 'python3 /opt/template/fetch/fetch.py /opt/template/{order}'",
    ]
    assert changed(rendered(variant, "312")) == [
        next(each.context for each in before.fetched if each.target.endswith("table.csv"))
    ]
    pin = before.lock.stages[1].text.replace("==1.0", "==2.0")
    stages = (before.lock.stages[0], dataclasses.replace(before.lock.stages[1], text=pin))
    newer = render(variant, dataclasses.replace(before.lock, stages=stages))
    assert changed(newer) == ["requirements/leaf.txt"]


def test_targets_say_what_they_cannot_provide(tmp_path: Path) -> None:
    """`local` lists downloads outside of the home, E2B modes and owners that it replaces."""
    variant = loaded(
        tmp_path,
        """
[[download]]
url = "https://host.example/a"
target = "/usr/local/a"
[[download]]
url = "https://host.example/b"
target = "/home/user/b"
owner = "root"
""",
    )
    assert LocalTarget(isolation="none").unsupported(variant)[0] == (
        "downloads outside of /home/user of variants/leaf.toml: /usr/local/a"
    )
    assert not_provided(variant) == (
        "the modes of /usr/local/a (variants/leaf.toml:7): E2B gives everything below /usr/local mode"
        " 0777 at the end of a build",
        "the owner `root` of /home/user/b (variants/leaf.toml:11): E2B gives everything below"
        " /home/user to `user` at the end of a build",
    )


odd = st.text(alphabet="ab/.1 %\\-\"'$`!~*?#:;&|<>(){}[]@é\t\n\x00", max_size=12) | st.text(
    max_size=6
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(url=odd, target=odd, mode=odd | st.just("0755"), extract=st.booleans())
def test_no_value_adds_an_instruction(
    tmp_path_factory: pytest.TempPathFactory, url: str, target: str, mode: str, extract: bool
) -> None:
    """Whatever is written into a download, the Dockerfile has the same instructions, or the spec is
    refused."""
    entry = {"url": f"https://h{url}", "target": f"/opt/{target}", "mode": mode}
    text = tomli_w.dumps({"download": [{**entry, "extract": extract}]})
    try:
        variant = loaded(tmp_path_factory.mktemp("any"), text)
    except SpecError:
        return
    for size in (1, 1 << 40):
        download = LockedDownload(
            url=entry["url"], sha256=HASH, size=size, unpacked_size=1 if extract else None
        )
        lock = lock_of(variant)
        stage = dataclasses.replace(lock.stages[1], downloads=(download,))
        result = render(variant, dataclasses.replace(lock, stages=(lock.stages[0], stage)))
        parsed = parse_dockerfile_ast(result.content("Dockerfile").decode())
        assert " ".join(each.name.upper() for each in parsed.instructions).startswith(
            "FROM USER WORKDIR RUN RUN COPY RUN FROM COPY" + (" FROM" if size == 1 else " RUN FROM")
        )
        assert not any(each.heredocs for each in parsed.instructions)
        copied = parsed.instructions[8].args
        assert copied[-1] == (entry["target"] if size == 1 else "/opt/template/fetch/")


def test_specs_without_downloads_stay_as_they_were(tmp_path: Path) -> None:
    """Nothing about downloads is in the files of a spec that has none."""
    variant = load(tmp_path, _base=BASE, leaf=LEAF)["leaf"]
    result = render(variant, lock_of(variant))
    assert [file.path for file in result.files if b"fetch" in file.content] == []
    assert [file.path for file in result.files if b"download" in file.content] == []
    assert flatten(result.content("Dockerfile").decode(), file="Dockerfile").steps
