"""A context of the code service for tests: a real Jupyter kernel, and the events of an execution.

It answers as the published service does, its faults included. `left` says whether the client of an
execution has closed its connection, upon which its code is interrupted and nothing is tidied up.
"""

import queue
import threading
import time
import uuid

from jupyter_client.manager import start_new_kernel

# The real service gives up on a kernel that does not answer within 10 seconds, on a machine of its
# own. Here other tests take their share of the machine.
_OPEN_SECONDS = 60
_LOOK_SECONDS = 0.02
_KEEPALIVE_SECONDS = 5
# Sooner after an interrupt than this, a request is aborted by the kernel, which the service
# takes for neither an end nor an error: it waits until its client gives up.
_ABORTED_SECONDS = 0.05
_OF_THE_SANDBOX = {"E2B_TEST_VARIABLE": "true"}
_FIELDS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
    "e2b/data": "data",
    "e2b/chart": "chart",
}


def open_kernel(*, cwd):
    """A kernel and its client. Raises RuntimeError where it does not answer in time."""
    return start_new_kernel(startup_timeout=_OPEN_SECONDS, cwd=cwd)


class Context:
    def __init__(self, language, cwd, start=open_kernel, variables=_OF_THE_SANDBOX):
        self.id = uuid.uuid4().hex
        self.language, self.cwd = language, cwd
        self.lock = threading.Lock()
        self._start = start
        self._closed = self._knows_the_sandbox = False
        self._tidying = ""
        self._left_at = float("-inf")
        # Those of the sandbox, which are set in the first execution.
        self.variables = variables
        self.manager, self.client = start(cwd=cwd)
        # However long it takes: what waits for the first execution runs in this one.
        self._run_silently(f"%cd {cwd}")

    def _run_silently(self, code):
        request = self.client.execute(code, silent=True)
        while True:
            try:
                reply = self.client.get_shell_msg(timeout=1)
            except queue.Empty:
                if not self.manager.is_alive():
                    raise RuntimeError("the kernel died") from None
            else:
                if reply["parent_header"].get("msg_id") == request:
                    return

    def end(self):
        """Kill the kernel; from any thread."""
        self._closed = True
        self.manager.shutdown_kernel(now=True)

    def close(self):
        self.end()
        self.client.stop_channels()

    def public(self):
        return {"id": self.id, "language": self.language, "cwd": self.cwd}

    def execute(self, code, env_vars, left=lambda: False):
        while not self.lock.acquire(timeout=_LOOK_SECONDS):
            if left():
                return
        try:
            yield from self._execute(code, env_vars or {}, left)
        finally:
            self.lock.release()

    def _execute(self, code, env_vars, left):
        if self._tidying:
            self._tidy()
        prelude = [_set(*item) for item in env_vars.items()]
        if not self._knows_the_sandbox:
            self._knows_the_sandbox = True
            prelude = [_set(*item) for item in self.variables.items()] + prelude
        if prelude:
            first = next((line for line in code.split("\n") if line.strip()), "")
            indent = first[: len(first) - len(first.lstrip())]
            code = "\n".join([indent + line for line in prelude] + [code])
        request = None
        if time.monotonic() - self._left_at > _ABORTED_SECONDS:
            request = self.client.execute(code, allow_stdin=False)
        for event in self._events(request, left):
            if event is None:
                return
            yield event
        if env_vars:
            self._tidying = "\n".join(
                _set(key, self.variables[key])
                if key in self.variables
                else f"import os; del os.environ['{key}']"
                for key in env_vars
            )
        yield {"type": "end_of_execution"}

    def _events(self, request, left):
        """What an execution gives, up to its end; None last where the client has left."""
        accepted = failed = False
        last_event = time.monotonic()
        while True:
            if left():
                self._left_at = time.monotonic()
                self.manager.interrupt_kernel()
                yield None
                return
            if time.monotonic() - last_event > _KEEPALIVE_SECONDS:
                last_event = time.monotonic()
                yield {"type": "keepalive"}
            try:
                message = self.client.get_iopub_msg(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if self._closed:
                    yield _failed(
                        "UnexpectedEndOfExecution",
                        "Connection to the execution was closed before the execution was finished",
                    )
                    return
                if not self.manager.is_alive():
                    yield _failed("ContextRestarting", "Context was restarted")
                    self._replace()
                    return
                continue
            if not request or message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status":
                # Of a request that was aborted, nothing but this arrives.
                if content["execution_state"] == "idle" and accepted:
                    reply = self._reply(request)
                    if reply.get("status") == "error" and not failed:
                        yield _failed(reply["ename"], reply["evalue"], reply["traceback"])
                    return
            elif kind == "execute_input":
                accepted = True
                count = content["execution_count"]
                yield {"type": "number_of_executions", "execution_count": count}
            elif kind == "error":
                if not failed:
                    failed = True
                    yield _failed(content["ename"], content["evalue"], content["traceback"])
            elif event := _event(kind, content):
                yield event
            last_event = time.monotonic()

    def _reply(self, request):
        while True:
            try:
                reply = self.client.get_shell_msg(timeout=1)
            except queue.Empty:
                return {}
            if reply["parent_header"].get("msg_id") == request:
                return reply["content"]

    def _tidy(self):
        code, self._tidying = self._tidying, ""
        self.client.execute_interactive(
            code, silent=True, store_history=True, allow_stdin=False, output_hook=lambda _: None
        )

    def _replace(self):
        """As Jupyter does with a kernel that has died: nobody sets the sandbox's variables anew."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager, self.client = self._start(cwd=self.cwd)


def _set(key, value):
    return f"import os; os.environ['{key}'] = '{value}'"


def _failed(name, value, traceback=()):
    return {"type": "error", "name": name, "value": value, "traceback": "".join(traceback)}


def _event(kind, content):
    if kind == "stream":
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return {"type": content["name"], "text": content["text"], "timestamp": stamp}
    if kind in ("execute_result", "display_data"):
        data = dict(content["data"])
        fields = {field: data.pop(mime) for mime, field in _FIELDS.items() if mime in data}
        text = fields.get("text") or ""
        if text[:1] == text[-1:] and text[:1] in ("'", '"'):
            fields["text"] = text[1:-1]
        main = kind == "execute_result"
        return {"type": "result", **fields, "extra": data, "is_main_result": main}
    return None
