"""Attempts at processes of the user, of other sandboxes, and at the process that started the
sandbox."""

from __future__ import annotations

from tests.escape.attempt import Attempt, attempts

_OTHERS = attempts(
    "process IDs",
    see_a_process_of_the_user='escaped(is_there(facts["victim_name"]) > 0)',
    read_the_variables_of_a_process='escaped(has_token(read("/proc/%d/environ" % facts["victim"])))',
    read_the_variables_of_every_process="""
        for process in processes():
            with contextlib.suppress(OSError):
                escaped(has_token(read("/proc/%d/environ" % process)))
    """,
    read_the_variables_of_the_application="""
        escaped(read("/proc/%d/environ" % facts["application"]) == facts["variables"])
    """,
    signal_a_process_of_the_user="""
        os.kill(is_there(facts["victim_name"]), signal.SIGCONT)
        escaped()
    """,
    signal_the_application="""
        os.kill(facts["application"], 0)
        escaped(facts["application"] != os.getpid())
    """,
    signal_the_parent="""
        parent = os.getppid()
        if parent > 0:
            os.kill(parent, 0)
            escaped()
    """,
    signal_a_process_of_another_sandbox="""
        os.kill(is_there(facts["other_process"]), signal.SIGCONT)
        escaped()
    """,
    change_the_priority_of_a_process="""
        os.setpriority(os.PRIO_PROCESS, is_there(facts["victim_name"]), 1)
        escaped()
    """,
    change_the_limits_of_a_process="""
        victim = is_there(facts["victim_name"])
        limits = resource.prlimit(victim, resource.RLIMIT_CPU)
        resource.prlimit(victim, resource.RLIMIT_CPU, limits)
        escaped()
    """,
    move_a_process_to_another_processor="""
        victim = is_there(facts["victim_name"])
        os.sched_setaffinity(victim, os.sched_getaffinity(victim))
        escaped()
    """,
    read_a_file_that_a_process_has_open="""
        folder = "/proc/%d/fd/" % facts["victim"]
        for name in os.listdir(folder):
            if os.readlink(folder + name) == facts["secret"]:
                escaped(has_token(read(folder + name)))
    """,
    read_the_memory_of_a_process="""
        with open("/proc/%d/mem" % facts["victim"], "rb", 0) as file:
            file.seek(facts["address_of_memory"])
            escaped(has_token(file.read(len(facts["token"]))))
    """,
)

_TRACING = attempts(
    "seccomp",
    trace_a_process="""
        seize, detach = 0x4206, 17
        call("ptrace", seize, facts["victim"], 0, 0)
        os.kill(facts["victim"], signal.SIGSTOP)
        os.waitpid(facts["victim"], 0x40000000)
        call("ptrace", detach, facts["victim"], 0, 0)
        os.kill(facts["victim"], signal.SIGCONT)
        escaped()
    """,
    trace_a_process_of_its_own="""
        def traced():
            call("ptrace", 0, 0, 0, 0)
        escaped(in_child(traced))
    """,
    read_the_memory_of_a_process_directly="""
        data = ctypes.create_string_buffer(len(facts["token"]))
        mine = struct.pack("PN", ctypes.addressof(data), len(data))
        theirs = struct.pack("PN", facts["address_of_memory"], len(data))
        call("process_vm_readv", facts["victim"], mine, 1, theirs, 1, 0)
        escaped(has_token(data.raw))
    """,
    write_the_memory_of_a_process_directly="""
        data = ctypes.create_string_buffer(facts["token"].encode())
        mine = struct.pack("PN", ctypes.addressof(data), 1)
        theirs = struct.pack("PN", facts["address_of_memory"], 1)
        escaped(call("process_vm_writev", facts["victim"], mine, 1, theirs, 1, 0) == 1)
    """,
    take_a_descriptor_of_a_process="""
        descriptor = call("pidfd_getfd", os.pidfd_open(facts["victim"]), facts["descriptor"], 0)
        os.lseek(descriptor, 0, 0)
        escaped(has_token(os.read(descriptor, 100)))
    """,
    compare_processes='escaped(call("kcmp", os.getpid(), os.getpid(), 0, 0, 0) == 0)',
)

_SETUID = attempts(
    "no new privileges",
    have_a_program_run_as_root="""
        program = next(
            path for path in map(shutil.which, ("passwd", "chsh", "su", "mount"))
            if path and os.stat(path).st_mode & stat.S_ISUID
        )
        with subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            time.sleep(0.2)
            status = read("/proc/%d/status" % process.pid).decode()
            process.stdin.close()
        escaped(status.partition("Uid:")[2].split()[1] == "0")
    """,
    gain_privileges_by_executing="""
        escaped("NoNewPrivs:\\t0" in read("/proc/self/status").decode())
    """,
)

_CAPABILITIES = attempts(
    "capabilities",
    have_a_capability_within_reach="""
        status = read("/proc/self/status").decode()
        names = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
        escaped(any(int(status.partition(name + ":")[2].split()[0], 16) for name in names))
    """,
    find_a_process_with_a_capability="""
        for process in processes():
            with contextlib.suppress(OSError):
                status = read("/proc/%d/status" % process).decode()
                escaped(int(status.partition("CapPrm:")[2].split()[0], 16) != 0)
    """,
)

_UNFILTERED = attempts(
    "seccomp",
    take_over_a_process_that_may_make_every_call="""
        for process in processes():
            with contextlib.suppress(OSError):
                status = read("/proc/%d/status" % process).decode()
                with open("/proc/%d/mem" % process, "r+b", 0):
                    escaped("Seccomp:\\t0" in status)
    """,
)

_DESCRIPTORS = attempts(
    "descriptors",
    use_an_inherited_descriptor="""
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                path = os.readlink("/proc/self/fd/" + name)
                outside = path.startswith("/") and not path.startswith(("/dev/", "/proc/", "/run/"))
                escaped(outside and int(name) > 2 and os.getcwd() not in (path, "/home/user"))
    """,
    use_a_descriptor_that_programs_inherit="""
        listed = subprocess.run(
            ["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, close_fds=False
        ).stdout
        names = [line.rpartition(" ")[2] for line in listed.splitlines()[1:]]
        outside = [name for name in names if name.startswith("/")]
        allowed = ("/dev/", "/proc/", "/run/")
        escaped(any(not name.startswith(allowed) for name in outside))
    """,
)

ATTEMPTS: tuple[Attempt, ...] = (
    *_OTHERS,
    *_TRACING,
    *_SETUID,
    *_CAPABILITIES,
    *_UNFILTERED,
    *_DESCRIPTORS,
)
