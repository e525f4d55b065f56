from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from builder.errors import PrecheckError
from builder.precheck import breakage
from builder.precheck.machine import Machine
from tests.conftest import BASE
from tests.support.samples import load

# What each distribution does when it is imported, in the base and after `idna` was upgraded.
NEEDS_OLD = "import idna\nif idna.new: raise ImportError('idna 2 is needed')\n"
MODULES = {
    "broken_before": "raise ImportError('it never worked')\n",
    "crashes": "import idna, os\nif idna.new: os.kill(os.getpid(), 11)\n",
    "hangs": "import idna, time\nwhile idna.new: time.sleep(1)\n",
    "idna": "new = False\n",
    "needs_old": NEEDS_OLD,
    "nervous": "import sys\nif 'needs_old' in sys.modules: raise ImportError('not beside needs_old')\n",
    "noisy": "print('[]', flush=True)\n",
    "on_demand": (
        "__all__ = ['load', 'missing', 'never']\n"
        "def __getattr__(name):\n"
        "    if name == 'load':\n"
        "        import needs_old\n"
        "        return needs_old\n"
        "    if name == 'never':\n"
        "        raise ImportError('an extra is not installed')\n"
        "    raise AttributeError(name)\n"
    ),
    "quits": "import idna, sys\nif idna.new: sys.exit()\n",
}


class Here(Machine):
    """A machine that is this one, in which nothing but what is in `folder` can be imported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(
        self, words: Sequence[str], *, user: str | None = None, timeout: float | None = None
    ) -> tuple[int, str, str]:
        arguments = [word.replace("/tmp/", f"{self.folder}/") for word in words[1:]]
        ran = subprocess.run(
            [sys.executable, "-S", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        return ran.returncode, ran.stdout, ran.stderr

    def write(self, path: str, content: bytes) -> None:
        (self.folder / Path(path).name).write_bytes(content)

    def state(self) -> tuple[str, str]:
        return "running", ""

    def logs(self) -> str:
        return ""


@pytest.fixture
def machine(tmp_path: Path) -> Here:
    folder = tmp_path / "packages"
    for module, text in MODULES.items():
        (folder / module).mkdir(parents=True)
        (folder / module / "__init__.py").write_text(text)
        name = module.replace("_", "-")
        info = folder / f"{module}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        if module == "quits":  # as Debian's packages are, which come without a RECORD
            (info / "top_level.txt").write_text(f"{module}\n")
        else:
            (info / "RECORD").write_text(f"{module}/__init__.py,,\n")
    return Here(folder)


@pytest.mark.slow
def test_what_could_be_imported_before(
    machine: Here, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every distribution of the base that can no longer be imported, or of which something is
    imported on demand that fails, is named with how it fails; what never worked is not, nor what
    fails beside another one only."""
    monkeypatch.setattr(breakage, "_MODULE_SECONDS", 2)
    base = breakage.look_into(machine)
    assert sorted(set(base.packages) - set(base.imports)) == ["broken-before"]
    assert breakage.what_broke(machine, base) == ()
    (machine.folder / "idna" / "__init__.py").write_text("new = True\n")
    broken = breakage.what_broke(machine, base)
    assert [entry.text for entry in broken] == [
        "crashes: `import crashes` ends the interpreter with signal 11",
        "hangs: `import hangs` does not end within 2 seconds",
        "needs-old: `import needs_old` fails: ImportError: idna 2 is needed",
        "on-demand: `from on_demand import load` fails: ImportError: idna 2 is needed",
        "quits: `import quits` fails: SystemExit",
    ]
    spec = {"_base": BASE + "[python]\naccept-broken = ['hangs', 'Needs_Old', 'noisy']\n"}
    variant = load(tmp_path, **spec, leaf="schema = 1\nname = 'leaf'\nextends = '_base'\n")["leaf"]
    with pytest.raises(PrecheckError) as refused:
        breakage.refuse(broken, variant)
    assert str(refused.value) == (
        "installing the packages of `leaf` broke packages of the base image:\n"
        "  crashes: `import crashes` ends the interpreter with signal 11\n"
        "  on-demand: `from on_demand import load` fails: ImportError: idna 2 is needed\n"
        "  quits: `import quits` fails: SystemExit\n\n"
        "hint: require versions that both can use, or accept the breakage: [python] accept-broken ="
        ' ["crashes", "hangs", "needs-old", "on-demand", "quits"]'
    )
    assert breakage.accepted_in_vain(broken, variant) == [
        "`noisy` works: remove it from `python.accept-broken`"
    ]


def test_base_is_kept(machine: Here, tmp_path: Path) -> None:
    """What was found in a base image is read back for the same image, and for no other."""
    base = breakage.look_into(machine)
    breakage.keep(tmp_path, "sha256:1", base)
    assert breakage.kept(tmp_path, "sha256:1") == base
    assert breakage.kept(tmp_path, "sha256:2") is None
