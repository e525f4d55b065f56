"""A virtual environment for each sandbox, on top of the environment that all sandboxes share.

It is empty at first; its interpreter finds its own packages before those of the environment. Pip,
and all tools that ask the interpreter where to install, install there, for this sandbox alone.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from builder.targets.local.place import packages_of

# Without these, programs of the host, later on the search path, would change the host. `pip` is
# always that of the sandbox's interpreter.
_PIP = """\
#!/bin/sh
exec "$(dirname -- "$0")/python" -m pip "$@"
"""
_INSTALLERS = ("uv", "uvx", "pipx", "easy_install", "conda", "mamba", "micromamba")
_NOT_HERE = """\
#!/bin/sh
echo "${0##*/}: this template does not have it; add it to \\`packages\\` in its spec, or \
install with pip" >&2
exit 127
"""
_OF_ITS_OWN = ("activate", "deactivate", "pydoc.bat")


def make_layer(folder: Path, environment: Path, *, inside: Path) -> Path:
    """Make the virtual environment of a sandbox in its folder and return it; `inside` is where the
    sandbox sees the environment. Raises `OSError`."""
    layer = folder / "venv"
    shared = packages_of(environment)
    own = layer / shared.relative_to(environment)
    own.mkdir(parents=True)
    (layer / "lib64").symlink_to("lib")
    shutil.copyfile(environment / "pyvenv.cfg", layer / "pyvenv.cfg")
    # Read last, so that the sandbox's additions to the search path come first. ASCII, because older
    # versions of Python read it in the encoding of the locale.
    path = ascii(os.fspath(inside / shared.relative_to(environment)))
    (own / "zz-environment.pth").write_text(f"import site; site.addsitedir({path})\n")
    (layer / "bin").mkdir()
    programs = dict.fromkeys(_INSTALLERS, _NOT_HERE)
    for entry in os.scandir(environment / "bin"):
        programs.pop(entry.name, None)
        if not entry.name.startswith(_OF_ITS_OWN):
            os.symlink(inside / "bin" / entry.name, layer / "bin" / entry.name)
    version = shared.parent.name.removeprefix("python")
    for name, text in (programs | dict.fromkeys(("pip", "pip3", f"pip{version}"), _PIP)).items():
        file = layer / "bin" / name
        file.unlink(missing_ok=True)
        file.write_text(text)
        file.chmod(0o755)
    return layer
