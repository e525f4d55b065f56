"""A context of the code service for tests: a real Jupyter kernel, and the events of an execution."""

import queue
import threading
import time
import uuid

from jupyter_client.manager import start_new_kernel


class Context:
    def __init__(self, language, cwd, start=start_new_kernel):
        self.id = uuid.uuid4().hex
        self.language, self.cwd = language, cwd
        self.lock = threading.Lock()
        self.manager, self.client = start(cwd=cwd)

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def public(self):
        return {"id": self.id, "language": self.language, "cwd": self.cwd}

    def execute(self, code, env_vars):
        with self.lock:
            if env_vars:
                told = f"__import__('os').environ.update({env_vars!r})"
                self.client.execute_interactive(told, silent=True)
            request = self.client.execute(code)
            while True:
                try:
                    message = self.client.get_iopub_msg(timeout=1)
                except queue.Empty:
                    if not self.manager.is_alive():
                        yield {"type": "unexpected_end_of_execution"}
                        return
                    yield {"type": "keepalive"}
                    continue
                if message["parent_header"].get("msg_id") != request:
                    continue
                kind, content = message["msg_type"], message["content"]
                if kind == "stream":
                    stamp = int(time.time() * 1e9)
                    yield {"type": content["name"], "text": content["text"], "timestamp": stamp}
                elif kind in ("execute_result", "display_data"):
                    data = content["data"]
                    yield {
                        "type": "result",
                        "text": data.get("text/plain"),
                        "html": data.get("text/html"),
                        "png": data.get("image/png"),
                        "is_main_result": kind == "execute_result",
                    }
                elif kind == "error":
                    yield {
                        "type": "error",
                        "name": content["ename"],
                        "value": content["evalue"],
                        "traceback": "\n".join(content["traceback"]),
                    }
                elif kind == "execute_input":
                    count = content["execution_count"]
                    yield {"type": "number_of_executions", "execution_count": count}
                elif kind == "status" and content["execution_state"] == "idle":
                    yield {"type": "end_of_execution"}
                    return
