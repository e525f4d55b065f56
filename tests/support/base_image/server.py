"""A code service for tests: /health, /execute and /contexts, with real Jupyter kernels.

Like the real one it starts the default context's kernel before it answers, ends for good where that
kernel does not open in time, and asks the machine for its sandbox's variables.
"""

import json
import os
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from contexts import Context

PORT = 49999
VARIABLES_URL = "http://localhost:49983/envs"
HOME = "/home/user"
CONTEXTS = {}


def new_context(language, cwd):
    return Context(language, cwd, variables=None)


def sandbox_variables(token):
    """The variables that a sandbox was created with. Raises OSError where nobody answers."""
    if os.environ.get("E2B_LOCAL"):
        return {"E2B_TEST_VARIABLE": "true"}
    headers = {"X-Access-Token": token} if token else {}
    request = urllib.request.Request(VARIABLES_URL, headers=headers)
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.load(answer)


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
            try:
                made = new_context(asked.get("language") or "python", asked.get("cwd") or HOME)
            except RuntimeError as error:
                self.answer(str(error), 500)
                return
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
            if context.variables is None:
                try:
                    context.variables = sandbox_variables(self.headers.get("X-Access-Token"))
                except OSError:
                    # The stream has begun and has no end.
                    self.close_connection = True
                    return
            for event in context.execute(asked["code"], asked.get("env_vars")):
                line = json.dumps(event).encode() + b"\n"
                self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.answer({"message": "not found"}, 404)


if __name__ == "__main__":
    try:
        default = new_context("python", HOME)
    except RuntimeError as error:
        print(f"Failed to initialize default context: {error}", file=sys.stderr)
        sys.exit("Application startup failed. Exiting.")
    CONTEXTS[default.id] = default
    ThreadingHTTPServer(("0.0.0.0", PORT), Handler).serve_forever()
