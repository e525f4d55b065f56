"""Attempts at the kernel: namespaces, mounts and dangerous system calls."""

from __future__ import annotations

from tests.escape.attempt import Attempt, attempts

_NAMESPACES = attempts(
    "seccomp",
    make_a_user_namespace='escaped(in_child(lambda: call("unshare", 0x10000000)))',
    make_a_user_namespace_with_a_process="""
        escaped(in_clone("clone", 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0))
    """,
    make_a_user_namespace_with_a_process_of_the_new_kind="""
        options = struct.pack("11Q", 0x10000000, 0, 0, 0, signal.SIGCHLD, *[0] * 6)
        escaped(in_clone("clone3", options, len(options)))
    """,
    mount_a_file_system_as_its_own_root="""
        def mount():
            call("unshare", 0x10020000)
            call("mount", b"none", b"/tmp", b"tmpfs", 0, 0)
        escaped(in_child(mount))
    """,
    join_a_namespace="""
        own = os.open("/proc/self/ns/user", os.O_RDONLY)
        try:
            call("setns", own, 0)
        except OSError as error:
            escaped(error.errno == errno.EINVAL)  # the kernel does not join where it is
    """,
)

_ROOT = attempts(
    "seccomp",
    root=True,
    mount_a_file_system="""
        os.makedirs("mounted", exist_ok=True)
        def mount():
            call("mount", b"none", b"mounted", b"tmpfs", 0, 0)
            call("umount2", b"mounted", 2)
        escaped(in_child(mount))
    """,
    make_a_file_system_without_mounting_it='os.close(call("fsopen", b"tmpfs", 0)); escaped()',
    take_a_copy_of_a_mount='os.close(call("open_tree", -100, b"/", 1)); escaped()',
    change_its_root='escaped(in_child(lambda: call("chroot", b"/")))',
    open_a_file_by_its_number="""
        handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136)
        mount = ctypes.c_int()
        call("name_to_handle_at", -100, b"/usr", handle, ctypes.byref(mount), 0)
        folder = os.open("/usr", os.O_RDONLY)
        os.close(call("open_by_handle_at", folder, handle, os.O_RDONLY))
        escaped()
    """,
    load_a_program_into_the_kernel="""
        attributes = struct.pack("5I", 2, 4, 4, 1, 0).ljust(128, bytes(1))
        os.close(call("bpf", 0, attributes, len(attributes)))
        escaped()
    """,
    measure_the_kernel="""
        attributes = struct.pack("IIQ", 1, 128, 0).ljust(128, bytes(1))
        os.close(call("perf_event_open", attributes, -1, 0, -1, 0))
        escaped()
    """,
    read_the_log_of_the_kernel="""
        data = ctypes.create_string_buffer(1 << 16)
        escaped(call("syslog", 3, data, len(data)) > 0)
    """,
    name_this_machine="""
        name = os.uname().nodename.encode()
        call("sethostname", name, len(name))
        escaped()
    """,
    set_the_clock="""
        call("settimeofday", 0, 0)
        escaped()
    """,
    type_into_a_terminal="""
        def type_into():
            os.setsid()
            _, terminal = os.openpty()
            fcntl.ioctl(terminal, 0x540E, 0)  # make it the controlling one
            fcntl.ioctl(terminal, 0x5412, b"x")
        escaped(in_child(type_into))
    """,
)

_FEATURES = (
    *attempts(
        "seccomp",
        keep_a_key_in_the_kernel="""
            call("add_key", b"user", b"intruder", b"x", 1, -2)
            escaped()
        """,
        find_the_keys_of_the_session='escaped(call("keyctl", 0, -3, 1) != 0)',
        find_the_number_of_a_file="""
            handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136)
            mount = ctypes.c_int()
            call("name_to_handle_at", -100, b"/usr", handle, ctypes.byref(mount), 0)
            escaped()
        """,
        turn_off_random_addresses='escaped(in_child(lambda: call("personality", 0x0040000)))',
        watch_file_systems='os.close(call("fanotify_init", 0x200, 0)); escaped()',
        move_pages_into_a_pipe="""
            reading, writing = os.pipe()
            page = ctypes.create_string_buffer(100)
            vector = struct.pack("PN", ctypes.addressof(page), 100)
            escaped(call("vmsplice", writing, vector, 1, 0) == 100)
        """,
        hide_memory_in_a_file='os.close(call("memfd_create", b"x", 0)); escaped()',
        hide_memory_in_a_queue="""
            queue = call("msgget", 0, 0o600)
            _libc.msgctl(queue, 0, None)
            escaped()
        """,
        hide_memory_in_a_segment="""
            segment = call("shmget", 0, 1 << 20, 0o600)
            _libc.shmctl(segment, 0, None)
            escaped()
        """,
    ),
    *attempts(
        "seccomp",
        needs="userfaultfd",
        stop_the_kernel_at_a_page='os.close(call("userfaultfd", 1)); escaped()',
    ),
    *attempts(
        "seccomp",
        needs="io_uring",
        make_calls_without_calling="""
            parameters = ctypes.create_string_buffer(120)
            os.close(call("io_uring_setup", 4, parameters))
            escaped()
        """,
    ),
    *attempts(
        "seccomp",
        needs="x86_64",
        use_the_calls_of_another_architecture="""
            def call_getpid():
                rights = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
                page = mmap.mmap(-1, 4096, prot=rights)
                page.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, getpid; int 0x80; ret
                place = ctypes.addressof(ctypes.c_char.from_buffer(page))
                assert ctypes.CFUNCTYPE(ctypes.c_int)(place)() == os.getpid()
            escaped(in_child(call_getpid))
        """,
    ),
)

_OTHER = (
    *attempts(
        "IPC",
        read_memory_that_processes_share="""
            segment = _libc.shmget(facts["segment"], 0, 0)
            _libc.shmat.restype = ctypes.c_void_p
            address = _libc.shmat(segment, None, 0o10000)
            escaped(segment >= 0 and has_token(ctypes.string_at(address, 100)))
        """,
    ),
    *attempts(
        "host name", read_the_name_of_this_machine='escaped(os.uname().nodename == facts["name"])'
    ),
    *attempts(
        "limits",
        leave_a_core_dump="""
            resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))
            escaped()
        """,
        use_more_processors="os.sched_setaffinity(0, range(os.cpu_count())); escaped()",
        enlarge_a_pipe="""
            reading, writing = os.pipe()
            escaped(fcntl.fcntl(writing, 1031, 1 << 18) == 1 << 18)
        """,
        enlarge_a_buffer_of_a_socket="""
            with socket.socket(socket.AF_UNIX) as line:
                line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                before = line.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
                line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
                escaped(line.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) > before)
        """,
        hide_files_in_a_thread="""
            hidden = []
            def hide():
                call("close_range", 1000, 1000, 2)  # the files of this thread are its own then
                hidden.append(os.open("/dev/null", os.O_RDONLY))
            thread = threading.Thread(target=hide)
            thread.start()
            thread.join()
            escaped(hidden and not os.path.exists("/proc/self/fd/%d" % hidden[0]))
        """,
        hide_memory_in_semaphores="""
            semaphores = call("semget", 0, 10_000, 0o600)
            _libc.semctl(semaphores, 0, 0)
            escaped()
        """,
        raise_a_limit="""
            size = 1 << 50
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            escaped()
        """,
    ),
)

ATTEMPTS: tuple[Attempt, ...] = (*_NAMESPACES, *_ROOT, *_FEATURES, *_OTHER)
