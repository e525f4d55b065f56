"""Requirements with an address: what is accepted, and what a lock makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from builder.lock.direct import direct_of, name_of
from builder.lock.pins import entries, is_lock_text, parse_pins
from builder.spec import Stage
from builder.spec.addresses import address_of, wheel_of
from builder.spec.types import PythonPackage
from builder.spec.variant import FileEntry

PACKAGE = TypeAdapter(PythonPackage)
HASH, COMMIT = "a" * 64, "b" * 40
WHEEL = "a-1.0-py3-none-any.whl"
TOKENS = [
    "https://", "http://", "git+https://", "file://", "h.example.com", "/", "@", "..", "files/",
    f"#sha256={HASH}", COMMIT, "#subdirectory=", WHEEL, ".tar.gz", ";", " ; ", " ", "\n", "\\", "$",
    "${HOME}", "'", '"', "`", "#", "%2F", "?", "=", "&", "--hash", "-r x", "é", ":", "x", "\u2028",
]  # fmt: skip
ADDRESSES = [
    f"https://h.example.com/d/{WHEEL}#sha256={HASH}",
    f"files/{WHEEL}",
    f"git+https://h.example.com/team/a.git@{COMMIT}#subdirectory=packages/a",
]


@pytest.mark.parametrize(
    "requirement",
    [
        f"a @ https://h.example.com/{WHEEL}#sha256={HASH}",
        f"a[x,y]@https://h.example.com/d/{WHEEL}?v=1#sha256={HASH} ; python_version < '4'",
        f"a @ http://h.example.com:8080/a.tar.gz#sha256={HASH}",
        f"a @ files/{WHEEL}",
        f"A @ {WHEEL} ; sys_platform == 'linux'",
        f"a @ git+https://h.example.com/team/a.git@{COMMIT}",
        f"a @ git+https://h.example.com/a@{COMMIT}#subdirectory=packages/a",
    ],
)
def test_address_that_decides_on_the_content(requirement: str) -> None:
    """An address is taken with a hash or a full commit, and so is a wheel of the project, with
    extras and markers."""
    assert PACKAGE.validate_python(requirement) == requirement
    assert address_of(requirement)
    assert name_of(requirement) == "a"


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (
            f"https://h.example.com/{WHEEL}",
            "write the package's name before it, and its hash:"
            f" `a @ https://h.example.com/{WHEEL}#sha256=…`",
        ),
        (
            f"https://h.example.com/x.tar.gz#sha256={HASH}",
            "write the package's name before it: `NAME @ …`",
        ),
        (
            "git+ssh://git@h.example.com/team/a",
            "write the package's name before it, and a commit: `NAME @ git+https://…@COMMIT`",
        ),
        (
            f"file:///{WHEEL}",
            "write the package's name, and a path in the variants folder: `NAME @ files/….whl`",
        ),
        (f"./files/{WHEEL}", f"write `a @ files/{WHEEL}`"),
        ("numpy =1.2", "write `numpy==1.2` or `numpy==1.2.*`"),
        ("numpy[x]=1.2.*", "write `numpy[x]==1.2.*`"),
        ("numpy=1.2=py312_0", "write `numpy==1.2` or `numpy==1.2.*`"),
        ("numpy 1.2", "write `numpy==1.2` or `numpy==1.2.*`"),
        ("numpy >=1.2 <2", "write a comma between two bounds"),
        ("numpy # fast", "write the comment outside of the quotes"),
        ("conda-forge::numpy=1", "it names a channel of conda; write `numpy`"),
        ("-r more.txt", "it is an option of pip; list the packages themselves"),
        ("numpy<", "Expected semicolon (after name with no version specifier) or end"),
    ],
)
def test_what_pip_and_conda_take(text: str, advice: str) -> None:
    """For a package in a form that only pip or conda accepts, the message says what to write."""
    with pytest.raises(ValidationError) as error:
        PACKAGE.validate_python(text)
    assert str(error.value.errors()[0]["msg"]) == (
        f"Value error, {text!r} is not a PEP 508 requirement: {advice}"
    )


@pytest.mark.parametrize(
    ("fragment", "wrong"),
    [
        ("", "has no hash: append `#sha256=` and 64 digits"),
        ("#md5=0", "has no hash: append `#sha256=` and 64 digits"),
        ("#sha256=…", "has an incomplete hash: append `#sha256=` and 64 digits"),
        (f"#sha256={HASH[1:]}", "has an incomplete hash: append `#sha256=` and 64 digits"),
    ],
)
def test_hash_that_is_none(fragment: str, wrong: str) -> None:
    """An address without a hash, or with an incomplete one, is refused as such."""
    text = f"a @ https://h.example.com/{WHEEL}{fragment}"
    with pytest.raises(ValidationError) as error:
        PACKAGE.validate_python(text)
    assert str(error.value.errors()[0]["msg"]) == f"Value error, {text!r} {wrong}"


@pytest.mark.slow
@settings(max_examples=500)
@given(
    address=st.sampled_from(ADDRESSES),
    token=st.sampled_from(TOKENS),
    place=st.integers(0, 100),
    width=st.integers(0, 2),
)
def test_whatever_is_accepted_is_one_entry_of_a_lock(
    address: str, token: str, place: int, width: int
) -> None:
    """Whatever follows a name is refused, or becomes one entry of a lock, without an option or a
    second line."""
    requirement = f"a @ {address[:place]}{token}{address[place + width :]}"
    try:
        PACKAGE.validate_python(requirement)
    except ValidationError:
        return
    wheels = []
    if source := wheel_of(requirement):
        target = f"/opt/template/wheels/leaf/{source.rpartition('/')[2]}"
        wheels.append(FileEntry(source=source, target=target, mode="0644", content=b""))
    stage = Stage(stem="leaf", source="x", requirements=(requirement,), wheels=tuple(wheels))
    (direct,) = direct_of([stage], Path("/variants")).values()
    pin = f"a @ {direct.locked}"
    hashed = "" if direct.locked.startswith("git+") else f" \\\n    --hash=sha256:{HASH}"
    lock = f"{pin}{hashed}\n    # a==1.0\n"
    assert is_lock_text(lock)
    assert list(entries(lock)) == [(pin, [f"sha256:{HASH}"] if hashed else [])]
    assert parse_pins(lock) == (("a", "1.0"),)


@pytest.mark.parametrize(
    "line",
    [
        "a @ git+https://h/x@main",
        f"a @ git+https://me:word@h/x@{COMMIT}",
        "a @ file:///etc/a.whl",
        "-r other.txt",
        "--index-url https://h/",
    ],
)
def test_lock_with_anything_else_is_damaged(line: str) -> None:
    """A committed lock with a branch, credentials, a path or an option is none."""
    assert not is_lock_text(f"{line}\n    # a==1.0\n")
    assert not is_lock_text(f"{line} \\\n    --hash=sha256:{HASH}\n    # a==1.0\n")
