"""Attempts to exceed the memory, processes, files or disk of a sandbox.

Each uses about twice the limits in `LIMITS` for `wait` seconds, longer than until a limit is
checked.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.escape.attempt import Attempt

LIMITS = {"memory_mb": 400, "disk_mb": 100, "processes": 60, "open_files": 300, "files": 3000}


@dataclass(frozen=True, kw_only=True, slots=True)
class Bomb(Attempt):
    """An attempt that ends with an error that contains `words`. If it `ends` the sandbox, the next
    needs a new one. `known` says why a sandbox does not prevent it yet."""

    words: str
    ends: bool = False


_MEMORY = "its limit of 400 MiB of memory"
_DISK = "its limit of 100 MiB of files"

BOMBS = (
    Bomb(
        goal="private memory",
        wall="limits",
        words=_MEMORY,
        ends=True,
        code="""
            data = b"x" * (800 << 20)
            time.sleep(facts["wait"])
            escaped(len(data))
        """,
    ),
    Bomb(
        goal="private memory of many processes",
        wall="limits",
        words=_MEMORY,
        ends=True,
        code="""
            code = "data = b'x' * (100 << 20); import time; time.sleep(20)"
            children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(8)]
            time.sleep(facts["wait"])
            escaped(all(child.poll() is None for child in children))
        """,
    ),
    Bomb(
        goal="memory of a process whose first thread has ended",
        wall="limits",
        words=_MEMORY,
        ends=True,
        code="""
            code = (
                "import ctypes, platform, threading, time\\n"
                "def use():\\n"
                "    data = b'x' * (800 << 20)\\n"
                "    time.sleep(20)\\n"
                "threading.Thread(target=use).start()\\n"
                "end = 93 if platform.machine() == 'aarch64' else 60\\n"
                "ctypes.CDLL(None).syscall(end, 0)\\n"
            )
            child = subprocess.Popen([sys.executable, "-c", code])
            time.sleep(facts["wait"])
            escaped(child.poll() is None)
        """,
    ),
    Bomb(
        goal="page tables of memory that is only read",
        wall="limits",
        words=_MEMORY,
        ends=True,
        code="""
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
            pages = mmap.mmap(-1, 400 << 30, flags=flags, prot=mmap.PROT_READ)
            pages.madvise(mmap.MADV_NOHUGEPAGE)
            for place in range(0, len(pages), 2 << 20):
                pages[place]
            time.sleep(facts["wait"])
            escaped(len(pages))
        """,
    ),
    Bomb(
        goal="shared memory",
        wall="limits",
        words=_MEMORY,
        ends=True,
        code="""
            shared = mmap.mmap(-1, 800 << 20)
            for start in range(0, 800 << 20, 1 << 20):
                shared[start : start + (1 << 20)] = bytes([1]) * (1 << 20)
            time.sleep(facts["wait"])
            escaped(shared[-1] == 1)
        """,
    ),
    Bomb(
        goal="files in memory",
        wall="limits",
        words="No space left on device",
        code="""
            try:
                for number in range(80):
                    pathlib.Path("/dev/shm/bomb%d" % number).write_bytes(bytes(10 << 20))
                escaped()
            finally:
                for path in glob.glob("/dev/shm/bomb*"):
                    os.unlink(path)
        """,
    ),
    Bomb(
        goal="temporary files in memory",
        wall="limits",
        words="No space left on device",
        code="""
            place = tempfile.mkdtemp(dir="/tmp")
            try:
                for number in range(80):
                    pathlib.Path(place, "bomb%d" % number).write_bytes(bytes(10 << 20))
                escaped()
            finally:
                shutil.rmtree(place)
        """,
    ),
    Bomb(
        goal="files in memory without a name",
        wall="limits",
        words="Function not implemented",
        code="""
            files = [os.memfd_create("bomb") for _ in range(8)]
            for file in files:
                for _ in range(100):
                    os.write(file, bytes(1 << 20))
            time.sleep(facts["wait"])
            escaped()
        """,
    ),
    Bomb(
        goal="files in memory that are deleted and in several places",
        wall="limits",
        words=_MEMORY,
        ends=True,
        code="""
            kept = []
            for folder in ("/dev/shm", "/tmp"):
                for _ in range(19):
                    name = os.path.join(folder, "bomb")
                    file = open(name, "wb")
                    os.unlink(name)
                    file.write(bytes(10 << 20))
                    file.flush()
                    kept.append(file)
            data = bytes([1]) * (100 << 20)
            time.sleep(facts["wait"])
            escaped(len(kept) == 38 and data)
        """,
    ),
    Bomb(
        goal="processes",
        wall="limits",
        words="Resource temporarily unavailable",
        code="""
            children = []
            try:
                for _ in range(120):
                    process = os.fork()
                    if process == 0:
                        time.sleep(60)
                        os._exit(0)
                    children.append(process)
                escaped()
            finally:
                for child in children:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
        """,
    ),
    Bomb(
        goal="threads",
        wall="limits",
        words="can't start new thread",
        code="""
            over = threading.Event()
            threads = [threading.Thread(target=over.wait) for _ in range(120)]
            try:
                for thread in threads:
                    thread.start()
                escaped()
            finally:
                over.set()
        """,
    ),
    Bomb(
        goal="open files",
        wall="limits",
        words="Too many open files",
        code="""
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            files = []
            try:
                for _ in range(600):
                    files.append(os.open("/dev/null", os.O_RDONLY))
                escaped()
            finally:
                for file in files:
                    os.close(file)
        """,
    ),
    Bomb(
        goal="one large file",
        wall="limits",
        words="File too large",
        code="""
            try:
                with open("bomb", "wb") as file:
                    for _ in range(200):
                        file.write(bytes(1 << 20))
                    file.flush()
                escaped()
            finally:
                os.unlink("bomb")
        """,
    ),
    Bomb(
        goal="many large files",
        wall="limits",
        words=_DISK,
        ends=True,
        code="""
            for number in range(20):
                pathlib.Path("bomb%d" % number).write_bytes(bytes(10 << 20))
            time.sleep(facts["wait"])
            escaped()
        """,
    ),
    Bomb(
        goal="large files in deep folders",
        wall="limits",
        words=_DISK,
        ends=True,
        code="""
            for depth in range(50):
                os.mkdir("d" * 100)
                os.chdir("d" * 100)
            for number in range(20):
                pathlib.Path("bomb%d" % number).write_bytes(bytes(10 << 20))
            time.sleep(facts["wait"])
            escaped()
        """,
    ),
    Bomb(
        goal="large files in folders that cannot be listed",
        wall="limits",
        words=_DISK,
        ends=True,
        code="""
            os.mkdir("closed", 0o300)
            for number in range(20):
                pathlib.Path("closed/bomb%d" % number).write_bytes(bytes(10 << 20))
            time.sleep(facts["wait"])
            escaped()
        """,
    ),
    Bomb(
        goal="large files that are deleted",
        wall="limits",
        words=_DISK,
        ends=True,
        code="""
            kept = []
            for number in range(20):
                kept.append(open("bomb", "wb"))
                os.unlink("bomb")
                kept[-1].write(bytes(10 << 20))
                kept[-1].flush()
            time.sleep(facts["wait"])
            escaped()
        """,
    ),
    Bomb(
        goal="many files",
        wall="limits",
        words="its limit of 3000 files",
        ends=True,
        code="""
            for number in range(6000):
                open("file%d" % number, "w").close()
            time.sleep(facts["wait"])
            escaped()
        """,
    ),
    Bomb(
        goal="packages of its own",
        wall="limits",
        words=_DISK,
        ends=True,
        code="""
            import sysconfig
            for number in range(20):
                place = pathlib.Path(sys.prefix, "bomb%d" % number)
                place.write_bytes(bytes(10 << 20))
            time.sleep(facts["wait"])
            escaped()
        """,
    ),
    Bomb(
        goal="memory of sockets of many processes",
        wall="limits",
        words=_MEMORY,
        ends=True,
        code="""
            code = (
                "import contextlib, socket, time\\n"
                "kept = []\\n"
                "for _ in range(120):\\n"
                "    kept += socket.socketpair()\\n"
                "for each in kept:\\n"
                "    each.setblocking(False)\\n"
                "    with contextlib.suppress(BlockingIOError):\\n"
                "        while each.send(bytes(1 << 16)): pass\\n"
                "print(1, flush=True)\\n"
                "time.sleep(60)\\n"
            )
            children = [
                subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
                for _ in range(14)
            ]
            for child in children:
                child.stdout.read(1)
            time.sleep(facts["wait"])
            escaped(all(child.poll() is None for child in children))
            for child in children:
                child.kill()
                child.wait()
        """,
    ),
    Bomb(
        goal="memory of sockets",
        wall="limits",
        words="Too many open files",
        code="""
            pairs, filled = [], 0
            try:
                for _ in range(4000):
                    pairs.append(socket.socketpair())
                    for each in pairs[-1]:
                        each.setblocking(False)
                        with contextlib.suppress(BlockingIOError):
                            while True:
                                filled += each.send(bytes(1 << 16))
                    if filled > 800 << 20:
                        break
                escaped(filled > 800 << 20)
            finally:
                for pair in pairs:
                    for each in pair:
                        each.close()
        """,
    ),
)


def representative() -> tuple[Bomb, ...]:
    """Return one bomb for each limit."""
    goals = ("shared memory", "processes", "open files", "many large files", "many files")
    return tuple(bomb for bomb in BOMBS if bomb.goal in goals)
