from __future__ import annotations

import pytest

from builder.convert import FileCopy, convert
from tests.support.conversions import Files, converted

INDEX = "the index is a setting of the machine: see the guide about a private index"


def test_lines_become_packages() -> None:
    """Each requirement is a package; comments, hashes and continued lines are understood."""
    text = (
        "\ufeff# all\nidna\nsix>=1 # why\nattrs==25.1 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
        'tomli ; python_version < "3.11"\nidna\nrich[jupyter]\n'
    )
    packages = ["idna", "six>=1", "attrs==25.1", 'tomli ; python_version < "3.11"', "rich[jupyter]"]
    assert converted(text, "requirements.txt") == ({"python": {"packages": packages}}, [])


def test_included_files_are_read() -> None:
    """`-r` is followed from the folder of the file that names it, once."""
    files = {
        "requirements/base.txt": "six\n-r more.txt\n",
        "requirements/more.txt": "-r base.txt\n",
    }
    document, notes = converted(
        "-r requirements/base.txt\nidna\n--requirement=nowhere.txt\n", "requirements.txt", files
    )
    assert document == {"python": {"packages": ["six", "idna"]}}
    assert notes == [
        "requirements.txt:3: `--requirement=nowhere.txt`: there is no file `nowhere.txt` here"
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("--index-url https://packages.example.com/simple", INDEX),
        ("-i https://packages.example.com/simple", INDEX),
        ("--extra-index-url=https://packages.example.com/simple", INDEX),
        (
            "-c constraints.txt",
            "the lock decides on versions; put a bound that you need into `packages`",
        ),
        (
            "-e ./lib",
            "an editable installation needs its folder; build a wheel from it",
        ),
        ("./lib", "a file or folder has no place in a lock; build a wheel from it"),
        (
            "lib-1.0-py3-none-any.whl",
            "a file or folder has no place in a lock; build a wheel from it",
        ),
        ("--pre", "a pre-release is taken if a bound names one, as in `torch>=3.0rc1`"),
        ("--what", "the option `--what` has no counterpart in a spec"),
    ],
)
def test_what_cannot_be_taken_over(line: str, reason: str) -> None:
    """What a spec cannot say is a note with the line and the reason."""
    document, notes = converted(f"idna\n{line}\n", "requirements.in")
    assert document == {"python": {"packages": ["idna"]}}
    assert notes == [f"requirements.in:2: `{line}`: {reason}"]


def test_backend_of_pytorch() -> None:
    """One of PyTorch's own indexes is a backend, not an index of the machine."""
    text = "--extra-index-url https://download.example.com/whl/cpu\ntorch\n"
    expected = {"python": {"torch-backend": "cpu", "packages": ["torch"]}}
    assert converted(text, "requirements.txt") == (expected, [])


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://robot:hunter2@packages.example.com/simple",
        "--extra-index-url https://hunter2@packages.example.com/simple",
        "lib @ https://hunter2@packages.example.com/lib-1.0-py3-none-any.whl",
        "lib @ https://robot:hunter2@packages.example.com/lib.zip",
    ],
)
def test_no_credentials_in_the_spec(line: str) -> None:
    """Of an address with a user or password, only the line is named."""
    document, notes = converted(f"idna\n{line}\n", "requirements.txt")
    assert document == {"python": {"packages": ["idna"]}}
    assert "hunter2" not in "".join(notes)
    assert notes[0].startswith("requirements.txt:2: ")


DIGEST = "0" * 64
COMMIT = "1" * 40


@pytest.mark.parametrize(
    ("line", "package"),
    [
        (
            f"lib @ https://x.example/lib-1.0-py3-none-any.whl#sha256={DIGEST}",
            f"lib @ https://x.example/lib-1.0-py3-none-any.whl#sha256={DIGEST}",
        ),
        (
            f"https://x.example/my_lib-1.0-py3-none-any.whl#sha256={DIGEST}",
            f"my-lib @ https://x.example/my_lib-1.0-py3-none-any.whl#sha256={DIGEST}",
        ),
        (
            f"lib @ https://x.example/lib-1.0-py3-none-any.whl --hash=sha256:{DIGEST}",
            f"lib @ https://x.example/lib-1.0-py3-none-any.whl#sha256={DIGEST}",
        ),
        (
            f"git+https://x.example/lib.git@{COMMIT}#egg=lib&subdirectory=py",
            f"lib @ git+https://x.example/lib.git@{COMMIT}#subdirectory=py",
        ),
    ],
)
def test_package_by_address(line: str, package: str) -> None:
    """An address with a hash, and a commit, is a package with its name."""
    assert converted(line, "requirements.txt") == ({"python": {"packages": [package]}}, [])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("lib @ https://x.example/lib-1.0-py3-none-any.whl", "has no hash: append `#sha256=`"),
        ("git+https://x.example/lib.git@main#egg=lib", "names no commit: write `git+https://…@`"),
    ],
)
def test_address_that_may_change(line: str, reason: str) -> None:
    """An address without a hash, or a branch, is a note that says what is missing."""
    document, (note,) = converted(line, "requirements.txt")
    assert document == {}
    assert reason in note


@pytest.mark.parametrize(
    ("line", "form"),
    [
        ("https://x.example/y.tar.gz", "name @ URL#sha256=…"),
        (f"https://x.example/y.zip#sha256={DIGEST}", "name @ URL#sha256=…"),
        (f"git+https://x.example/y.git@{COMMIT}", "name @ git+URL@COMMIT"),
    ],
)
def test_address_without_a_name(line: str, form: str) -> None:
    """An address that does not say the name of its package is a note with the form to write."""
    document, notes = converted(f"idna\n{line}\n", "requirements.txt")
    assert document == {"python": {"packages": ["idna"]}}
    quoted = line if len(line) <= 100 else f"{line[:98]} …"
    assert notes == [
        f"requirements.txt:2: `{quoted}`: the address has no package name before it: write `{form}`"
    ]


def test_wheel_of_the_folder() -> None:
    """A wheel beside the file is copied into the variants folder."""
    draft = convert(
        b"idna\n./wheels/my_lib-1.0-py3-none-any.whl\n",
        "requirements.txt",
        Files({"wheels/my_lib-1.0-py3-none-any.whl": "wheel"}),
    )
    conversion = draft.conversion("tools")
    assert (
        'packages = ["idna", "my-lib @ tools/wheels/my_lib-1.0-py3-none-any.whl"]'
        in conversion.text
    )
    assert conversion.files == {
        "tools/wheels/my_lib-1.0-py3-none-any.whl": FileCopy(content=b"wheel")
    }
    assert conversion.notes == ()
