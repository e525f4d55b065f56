"""One kernel."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from . import installs
from .output import Messages, connect_streams, restore_streams

_WAITING = 16  # messages


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
    from ipykernel.kernelapp import IPKernelApp
    from zmq import RCVHWM, SNDHWM, XPUB_NODROP

    from .python import PythonKernel, hide_host, run_loop

    class SandboxKernel(PythonKernel):
        """Takes an execution's variables and limit from the metadata of its request."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            session: Any = self.session
            pack = session.pack

            def packed(message: Any) -> bytes:
                try:
                    return bytes(pack(message))
                except UnicodeEncodeError:  # half of a character, which JSON can have escaped
                    return json.dumps(message, default=str).encode()

            session.pack = packed
            self._messages = Messages(session)

        async def execute_request(self, stream: Any, ident: Any, request: Any) -> None:
            metadata = request.get("metadata", {})
            self._messages.limit = metadata.get("limit")
            self._messages.request = request["header"]["msg_id"]
            with _variables(metadata.get("variables") or {}):
                await super().execute_request(stream, ident, request)

        async def do_execute(self, *arguments: Any, **options: Any) -> Any:
            try:
                return await super().do_execute(*arguments, **options)  # type: ignore[no-untyped-call]
            finally:
                restore_streams()

    class SandboxApp(IPKernelApp):
        """Leaves `sys.stdout` and `sys.stderr` alone, and drops no message."""

        def init_iopub(self, context: Any) -> None:
            # Code that displays faster than the application reads waits, as one that prints does.
            for option, value in ((XPUB_NODROP, 1), (SNDHWM, _WAITING), (RCVHWM, _WAITING)):
                context.setsockopt(option, value)
            super().init_iopub(context)  # type: ignore[no-untyped-call]

    installs.watch()
    options = ["-f", connection, "--HistoryManager.enabled=False"]
    options.append("--InteractiveShell.enable_tip=False")  # which draws from `random` unseen
    if parent is not None:
        options.append(f"--IPKernelApp.parent_handle={parent}")
    app: Any = SandboxApp.instance(kernel_class=SandboxKernel, outstream_class=None)
    app.initialize(options)
    connect_streams(os.path.dirname(connection), app.log)
    hide_host()
    run_loop(app)
