"""The process between the zygote and one kernel: it ends the kernel when its connection ends.

A kernel behind walls is requested with `walls`: the `command` that makes them, the seccomp
`program` in base64, the `limits` of its processes and the `budget` of all (see `.wall` and
`.budget`); with `kernel`, a command that starts it anew. A descriptor of the first process behind
the walls is sent along with the answer, and with `proxy`, a listening socket of the sandbox. The
keeper is behind the same walls, except that the code can neither see nor reach its process. The
kernel waits until the line "start" comes.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import select
import signal
import socket
from collections.abc import Callable
from typing import Any, BinaryIO

from . import HOME_DESCRIPTOR, PROXY_PORT
from .budget import Budget
from .wall import Wall, close_on_exec

_REQUEST_BYTES = 1 << 20
_START = signal.SIGUSR1  # for a kernel that waits


def keep(
    connection: socket.socket,
    guarding: dict[str, Any],
    become_kernel: Callable[[dict[str, Any], int], None],
) -> None:
    """Fork one kernel; end it, all that it has started and its folder when the connection ends.

    `guarding` holds the names of `builder.system.guard`.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    guarding["adopt_orphans"]()
    lines = connection.makefile("rb")
    line = lines.readline(_REQUEST_BYTES)
    if not line:
        os._exit(0)
    request = json.loads(line)
    woken, waker = os.pipe()
    for descriptor in (woken, waker):
        os.set_blocking(descriptor, False)
    walls = request.get("walls")
    wall = _entered(connection, walls) if walls else None
    if wall:
        guarding["end_with_parent"]()  # which a change of rights clears
    listener = _listener(walls)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, {_START})
    keeper_id = os.getpid()
    kernel = fork(connection)
    if kernel == 0:
        try:
            if wall is None:
                _end_with(keeper_id, guarding)
            signal.set_wakeup_fd(-1)
            for descriptor in (woken, waker, connection.fileno()):
                os.close(descriptor)
            become_kernel(request, keeper_id)
        finally:
            os._exit(0)
    _answer(connection, kernel, wall, listener)
    if wall is None:
        os.close(HOME_DESCRIPTOR)
    alive = _serve(connection, lines, kernel, woken, wall, Budget(walls["budget"] if walls else {}))
    signal.set_wakeup_fd(-1)
    if wall:
        wall.close()
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()
        with contextlib.suppress(OSError):  # the other side may have closed it
            # The application need not wait until this process has exited.
            connection.shutdown(socket.SHUT_RDWR)
        os._exit(0)
    _kill(kernel, alive=alive)
    guarding["end"](None, request["folder"])


def _entered(connection: socket.socket, walls: dict[str, Any]) -> Wall:
    """Make the walls and go behind them; if that fails, answer with the reason."""
    close_on_exec()
    try:
        wall = Wall(walls["command"], base64.b64decode(walls["program"]))
        wall.enter()
    except OSError as error:
        with contextlib.suppress(OSError):
            connection.sendall(f"failed: {' '.join(str(error).split())}\n".encode())
        raise
    return wall


def _listener(walls: dict[str, Any] | None) -> socket.socket | None:
    """Listen for the code's connections to hosts elsewhere, if it may make any."""
    if not walls or not walls["proxy"]:
        return None
    listener = socket.socket()
    listener.bind(("127.0.0.1", PROXY_PORT))
    listener.listen(128)
    return listener


def _answer(
    connection: socket.socket, kernel: int, wall: Wall | None, listener: socket.socket | None
) -> None:
    answer = f"{kernel}\n".encode()
    if wall is None:
        connection.sendall(answer)
        return
    first = os.pidfd_open(wall.pid)
    socket.send_fds(connection, [answer], [first, *([listener.fileno()] if listener else [])])
    os.close(first)
    if listener:
        listener.close()


def _serve(
    connection: socket.socket,
    lines: BinaryIO,
    kernel: int,
    woken: int,
    wall: Wall | None,
    budget: Budget,
) -> bool:
    """Start the kernel, report its end and pass interrupts on, until the connection ends; return
    whether the kernel is alive. `woken` can be read when a process has ended."""
    alive, started, breach = True, False, ""
    poll = select.poll()  # unlike `select`, it accepts any descriptor
    poll.register(connection.fileno(), select.POLLIN)
    poll.register(woken, select.POLLIN)
    busy = functools.partial(_readable, connection)
    while True:
        runs = started and alive
        ready = {descriptor for descriptor, _ in poll.poll(budget.pause() if runs else None)}
        if wall and runs and not breach and (breach := budget.breach(busy)):
            wall.close()
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 1024)
            status = _reap(kernel)
            if status is not None:
                alive = False
                with contextlib.suppress(OSError):
                    connection.sendall(f"{status} {breach}\n".encode())
                    connection.shutdown(socket.SHUT_WR)
        if connection.fileno() in ready:
            line = lines.readline(_REQUEST_BYTES)
            if not line:
                return alive
            with contextlib.suppress(OSError):
                if line == b"interrupt\n" and alive:
                    os.killpg(kernel, signal.SIGINT)
                elif line == b"start\n" and alive:
                    os.kill(kernel, _START)
                    started = True


def _end_with(keeper_id: int, guarding: dict[str, Any]) -> None:
    """Have this process end with its keeper, also if that has ended already."""
    guarding["end_with_parent"]()
    if os.getppid() != keeper_id:
        os._exit(0)


def wait_for_start() -> None:
    """Wait in a new kernel until it may run."""
    signal.sigwait({_START})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {_START})


def _readable(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def fork(connection: socket.socket) -> int:
    """Fork as `os.fork` does. If that fails, answer with the negative error number."""
    try:
        return os.fork()
    except OSError as error:
        with contextlib.suppress(OSError):
            connection.sendall(b"-%d\n" % (error.errno or 0))
        raise


def _kill(kernel: int, *, alive: bool) -> None:
    """Kill the kernel's group, unless it was reaped: its number may belong to another process."""
    if alive:
        with contextlib.suppress(OSError):
            os.killpg(kernel, signal.SIGKILL)


def _reap(kernel: int) -> int | None:
    """Reap processes; return the exit status of the kernel if it is among them."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
            if ended[0] == kernel:
                status = os.waitstatus_to_exitcode(ended[1])
    return status
