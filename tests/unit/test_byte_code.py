"""Byte code of packages, shared by the environments that hold the same files."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import cache_from_source
from pathlib import Path

from builder.targets.local import byte_code


def provided(packages: Path, store: Path) -> None:
    subprocess.run([sys.executable, "-I", "-S", byte_code.__file__, packages, store], check=True)


def compiled(module: Path) -> Path:
    return Path(cache_from_source(str(module)))


def environment(folder: Path, time: int = 1) -> Path:
    """A folder of packages: two modules, one of them nested, and a file that is no Python."""
    (folder / "package").mkdir(parents=True)
    for name, text in {
        "one.py": "def fails(): raise ValueError\n",
        "package/two.py": "X = 2\n",
        "template.py": "{{ no Python }}\n",
    }.items():
        (folder / name).write_text(text)
        os.utime(folder / name, (time, time))
    return folder


def test_same_file_is_compiled_once(tmp_path: Path) -> None:
    """Environments with the same modules share their byte code, whenever each was unpacked; what is
    no Python is left out."""
    first, second = environment(tmp_path / "a"), environment(tmp_path / "b", time=2)
    for packages in (first, second):
        provided(packages, tmp_path / "store")
    for name in ("one.py", "package/two.py"):
        assert compiled(first / name).samefile(compiled(second / name))
    assert not compiled(first / "template.py").exists()


def test_same_file_is_compiled_once_side_by_side(tmp_path: Path) -> None:
    """Environments that are made at the same time share their byte code, too."""
    folders = [tmp_path / "a", tmp_path / "b"]
    names = [f"module_{number}.py" for number in range(200)]
    for folder in folders:
        folder.mkdir()
        for name in names:
            (folder / name).write_text(f"NAME = {name!r}\n")
    program = [sys.executable, "-I", "-S", byte_code.__file__]
    running = [subprocess.Popen([*program, folder, tmp_path / "store"]) for folder in folders]
    assert [process.wait() for process in running] == [0, 0]
    first, second = folders
    assert all(compiled(first / name).samefile(compiled(second / name)) for name in names)


def test_tests_of_a_package_are_not_compiled(tmp_path: Path) -> None:
    """The tests that a package brings have no byte code, and a package named `tests` has."""
    packages = environment(tmp_path / "a")
    for name in ("package/tests", "package/deep/tests/data", "tests"):
        (packages / name).mkdir(parents=True)
        (packages / name / "three.py").write_text("X = 3\n")
    provided(packages, tmp_path / "store")
    compiled = {str(path.parent.parent.relative_to(packages)) for path in packages.rglob("*.pyc")}
    assert compiled == {".", "package", "tests"}


def test_shared_byte_code_is_taken(tmp_path: Path) -> None:
    """Python takes the byte code as it is, and says in a traceback where the module really is."""
    first, second = environment(tmp_path / "a"), environment(tmp_path / "b", time=2)
    for packages in (first, second):
        provided(packages, tmp_path / "store")
    run = subprocess.run(
        [sys.executable, "-v", "-c", "import package.two, one; one.fails()"],
        env={"PYTHONPATH": str(second), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    for name in ("one.py", "package/two.py"):
        assert f"code object from '{compiled(second / name)}'" in run.stderr.replace("# ", "")
    assert f'File "{second / "one.py"}", line 1, in fails' in run.stderr
    assert str(first) not in run.stderr


def test_what_no_environment_has_goes(tmp_path: Path) -> None:
    """Byte code is kept while an environment has it, and no longer."""
    first, second = environment(tmp_path / "a"), environment(tmp_path / "b")
    (second / "one.py").write_text("other = 1\n")
    store = tmp_path / "store"
    for packages in (first, second):
        provided(packages, store)

    def kept() -> int:
        return sum(path.is_file() for path in store.rglob("*"))

    assert kept() == 3
    compiled(first / "one.py").unlink()
    byte_code.prune(store)
    assert kept() == 2
    assert compiled(second / "one.py").stat().st_nlink == 2
