"""A temporary copy of the project with its own cache, so that the user's files stay untouched."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from types import TracebackType

from bench.child import ROOT, ChildError, timed
from builder.system.files import cache_folder, remove_tree

__all__ = ["Workshop"]

_COPIED_FOLDERS = ("variants", "generated")
_GIB_PER_ENVIRONMENT = 4


class Workshop:
    """The copy; use it in a `with` block, which removes it and everything built in it."""

    def __init__(self) -> None:
        # Beside the program's own cache, so that uv can link files here, too.
        place = cache_folder().parent
        place.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="template-builder-bench-", dir=place))
        self.project = self.folder / "project"
        self.cache = self.folder / "cache"
        for name in _COPIED_FOLDERS:
            shutil.copytree(ROOT / name, self.project / name)

    def build(self, *names: str) -> None:
        """Build, verify and record templates of the copy, by default all; repeating it is cheap."""
        self.require_space(len(names) or 4)
        which = ", ".join(names) or "all templates"
        print(f"  set-up: building {which}", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "builder", "build", *names, "--frozen"]
        command += ["--target", "local", "--project", str(self.project)]
        timed(command, extra=self.variables(self.cache))

    def variables(self, cache: Path) -> dict[str, str]:
        """Return the variables that make the program keep its environments in `cache`."""
        return {"TEMPLATE_BUILDER_CACHE_DIR": str(cache)}

    def require_space(self, environments: int) -> None:
        """Raise `ChildError` if the disk has no room for this number of environments."""
        free, needed = (
            shutil.disk_usage(self.folder).free >> 30,
            environments * _GIB_PER_ENVIRONMENT,
        )
        if free < needed:
            raise ChildError(
                f"{free} GiB are free where environments are made; {needed} are needed"
            )

    def __enter__(self) -> Workshop:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        remove_tree(self.folder)
