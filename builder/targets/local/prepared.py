"""A sandbox before its kernel runs, which can be made in advance."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from builder.system.scratch import Scratch, short_folder
from builder.targets.local.client import KernelClient
from builder.targets.local.confine import confinement
from builder.targets.local.confine.bubblewrap import hand_over
from builder.targets.local.confine.confinement import Confinement
from builder.targets.local.confine.proxy import Proxy
from builder.targets.local.confine.refusals import Refusal
from builder.targets.local.confine.walls import ENVIRONMENT, READ, SOCKETS, VENV
from builder.targets.local.home import copy_home
from builder.targets.local.kernel_host.waiting import SANDBOX
from builder.targets.local.launch import Forked, KernelProcess, Zygote, launch
from builder.targets.local.layer import make_layer
from builder.targets.local.place import confined_variables, sandbox_variables


class PreparedSandbox:
    """A sandbox whose kernel does not run yet: a folder with its home, its packages and its end of
    the connection; with a zygote, also the walls and a forked kernel that waits.

    `read` is the part of the folder that the kernel cannot change, `log` is the kernel's.
    """

    def __init__(
        self,
        environment: Path,
        *,
        env: Mapping[str, str],
        zygote: Zygote | None,
        confined: Confinement | None,
    ) -> None:
        """Raises `SandboxError`, `OSError`; then nothing is left behind."""
        self._environment = environment
        self._forked: Forked | None = None
        self._proxy: Proxy | None = None
        self._confined = confined
        self._held = contextlib.ExitStack()
        try:
            if confined and zygote is None:
                zygote = Zygote(environment, warm=(), env=env, view=confined.view, starter=True)
                self._held.callback(zygote.close)
            scratch = Scratch(str(zygote.folder), SANDBOX) if zygote else Scratch(short_folder())
            self._held.callback(scratch.remove)
            self.folder = scratch.path
            self._make(env, zygote)
        except BaseException:
            self.close()
            raise

    def _make(self, env: Mapping[str, str], zygote: Zygote | None) -> None:
        if zygote:
            self._forked = zygote.connect()
            self._held.callback(self._forked.end)
        self.home, self.read = self.folder / "home", self.folder / READ
        inside = Path(ENVIRONMENT) if self._confined else self._environment
        copy_home(self._environment, self.home, inside=inside)
        self.read.mkdir()
        self.client = KernelClient(self.read)
        self._held.callback(self.client.close)
        layer = make_layer(self.folder, self._environment, inside=inside)
        request = None
        if self._confined:
            assert zygote
            self.log = self.folder / SOCKETS / "child.log"
            confinement.write_connection(self.client.connection_file)
            hand_over(self.folder)
            request = self._confined.request(self.folder, cold=zygote.starts)
            self._variables = confined_variables(env, path=VENV) | self._confined.proxy_variables
        else:
            self.log = self.folder / "child.log"
            self._variables = sandbox_variables(env, path=layer, home=self.home)
            self._variables["IPYTHONDIR"] = str(self.folder / "ipython")
        if self._forked:
            self._forked.prepare(self.folder, self._variables, request)
            self._serve_network()

    def _serve_network(self) -> None:
        assert self._forked
        if self._confined and self._forked.listener:
            self._proxy = Proxy(self._confined.network)
            self._held.callback(self._proxy.close)
            self._proxy.serve(self._forked.listener)

    def start(self) -> KernelProcess:
        """Let the kernel run. Raises `SandboxError`, `OSError`."""
        process: KernelProcess
        if self._forked:
            process = self._forked
            process.start()
        else:
            process = launch(self._environment, self.folder, self._variables)
        self._held.callback(process.end)  # before anything else ends
        return process

    def refused(self) -> Counter[Refusal]:
        """Return how often connections of the code were refused."""
        return Counter(self._proxy.refused if self._proxy else {})

    def usable(self) -> bool:
        """Return whether its kernel, if it has one already, has not ended."""
        return self._forked is None or not self._forked.gone()

    def close(self) -> None:
        """End the kernel and all it has started, and remove the folder. Closing twice is fine."""
        self._held.close()
