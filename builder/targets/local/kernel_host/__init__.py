"""Jupyter kernels, run by the Python of a sandbox's environment.

The folder is a program: `kernel_host kernel CONNECTION` runs one kernel. `kernel_host zygote FOLDER
GUARD USER [MODULE…]` loads all that a kernel needs, and MODULEs, and forks kernels, which share
that memory until they write to it. `kernel_host starter FOLDER GUARD USER` starts kernels anew,
behind walls. USER is who root becomes behind walls, or empty without.

Its modules use only the standard library and ipykernel, and are loaded under another name: code in
a sandbox finds nothing of `builder`.
"""

# Modules may keep their home's path when they are imported, and it must lead to another folder in
# each sandbox. A path through a file descriptor does: every process has its own.
HOME_DESCRIPTOR = 99
STABLE_HOME = f"/proc/self/fd/{HOME_DESCRIPTOR}"
PROXY_PORT = 3128
HAS_THREADS = "the warm-up imports leave threads running, which a fork would not have"
