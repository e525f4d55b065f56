"""Jupyter kernels, run by the Python of a sandbox's environment.

The folder is a program: `kernel_host kernel CONNECTION` is one kernel, and `kernel_host zygote
FOLDER GUARD [MODULE…]` a process that has loaded all that a kernel needs, and MODULEs, and forks
kernels: each has that in memory at once, and shares it with the others until it is written to.

Its modules use the standard library and ipykernel only, and are loaded under a name of their own:
the code that runs in a sandbox finds nothing of `builder`.
"""

# What modules keep of their home when they are imported must be another folder in each sandbox.
# A path through a file descriptor is: every process has its own.
HOME_DESCRIPTOR = 99
STABLE_HOME = f"/proc/self/fd/{HOME_DESCRIPTOR}"
HAS_THREADS = "the warm-up imports leave threads running, which a fork would not have"
