"""A code service for tests: /health, /execute and /contexts, with real Jupyter kernels.

It has the default context's kernel started before it answers, as the real one has.
"""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from contexts import Context

PORT = 49999
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
