"""What a spec gets that says nothing of it: E2B's code interpreter.

The image and its start command are in https://github.com/e2b-dev/code-interpreter.
"""

IMAGE = "e2bdev/code-interpreter:latest"
PYTHON = ">=3.11"
COMMAND = ("sudo", "--preserve-env=E2B_LOCAL", "/root/.jupyter/start-up.sh")
READY_URL = "http://localhost:49999/health"
CPU = 2
MEMORY_MB = 1024
