"""A code service for tests: /health, /execute and /contexts, with real Jupyter kernels.

It has the default context's kernel started before it answers, as the real one has.
"""

import json
import queue
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from jupyter_client.manager import start_new_kernel

PORT = 49999


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


CONTEXTS = {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        size = int(self.headers.get("Content-Length") or 0)
        return json.loads(self.rfile.read(size) or b"{}")

    def do_GET(self):
        if self.path == "/health":
            self.answer("OK")
        elif self.path == "/contexts":
            self.answer([context.public() for context in CONTEXTS.values()])
        else:
            self.answer({"message": "not found"}, 404)

    def do_POST(self):
        asked = self.body()
        if self.path == "/contexts":
            made = Context(asked.get("language") or "python", asked.get("cwd") or "/home/user")
            CONTEXTS[made.id] = made
            self.answer(made.public())
        elif self.path == "/execute":
            context = CONTEXTS.get(asked.get("context_id") or next(iter(CONTEXTS)))
            if context is None:
                self.answer({"message": "no such context"}, 404)
                return
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for event in context.execute(asked["code"], asked.get("env_vars")):
                line = json.dumps(event).encode() + b"\n"
                self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.answer({"message": "not found"}, 404)


if __name__ == "__main__":
    default = Context("python", "/home/user")
    CONTEXTS[default.id] = default
    ThreadingHTTPServer(("0.0.0.0", PORT), Handler).serve_forever()
