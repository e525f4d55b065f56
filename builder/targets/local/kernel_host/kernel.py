"""One kernel."""

import contextlib
import json
import os
from typing import Any

from . import installs

__all__ = ["run_kernel"]


@contextlib.contextmanager
def _variables(given: dict[str, str]) -> Any:
    """Have `given` in the environment for the time of one execution."""
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def run_kernel(connection: str, *, parent: int | None = None) -> None:
    """Run one kernel until it is shut down. `parent` is the process that it must not outlive."""
    from ipykernel.ipkernel import IPythonKernel
    from ipykernel.kernelapp import IPKernelApp

    class SandboxKernel(IPythonKernel):
        """Takes an execution's environment variables from the metadata of its request."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)  # type: ignore[no-untyped-call]
            session: Any = self.session
            pack = session.pack

            def packed(message: Any) -> bytes:
                try:
                    return bytes(pack(message))
                except UnicodeEncodeError:  # half of a character, which JSON can have escaped
                    return json.dumps(message, default=str).encode()

            session.pack = packed

        async def execute_request(self, stream: Any, ident: Any, request: Any) -> None:
            given = request.get("metadata", {}).get("variables") or {}
            with _variables(given):
                await super().execute_request(stream, ident, request)  # type: ignore[no-untyped-call]

    installs.watch()
    options = ["-f", connection, "--HistoryManager.enabled=False"]
    if parent is not None:
        options.append(f"--IPKernelApp.parent_handle={parent}")
    IPKernelApp.launch_instance(argv=options, kernel_class=SandboxKernel)
