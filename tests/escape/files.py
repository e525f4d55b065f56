"""Attempts at files of the user, other sandboxes, the environment and the machine."""

from __future__ import annotations

from tests.escape.attempt import Attempt, attempts

_USER = attempts(
    "empty root",
    read_a_file_of_the_user='escaped(has_token(read(facts["secret"])))',
    read_a_private_key='escaped(has_token(read(facts["home"] + "/.ssh/id_ed25519")))',
    list_the_home_of_the_user='escaped(".ssh" in os.listdir(facts["home"]))',
    append_to_a_file_of_the_user="""
        with open(facts["home"] + "/.bashrc", "r+") as file:
            file.seek(0, 2)
            file.write("")
        escaped()
    """,
    create_a_file_in_the_home_of_the_user="""
        file = pathlib.Path(facts["home"], "new")
        file.write_text("x")
        file.unlink()
        escaped()
    """,
    read_a_file_through_a_symbolic_link="""
        with contextlib.suppress(FileExistsError):
            os.symlink(facts["secret"], "link")
        escaped(has_token(read("link")))
    """,
    read_a_file_through_a_hard_link="""
        place = os.path.dirname(facts["secret"]) + "/hard"
        os.link(facts["secret"], place)
        data = read(place)
        os.unlink(place)
        escaped(has_token(data))
    """,
    read_a_file_through_the_root_of_any_process="""
        for process in processes():
            with contextlib.suppress(OSError):
                escaped(has_token(read("/proc/%d/root%s" % (process, facts["secret"]))))
    """,
    read_a_file_through_the_working_folder_of_any_process="""
        for process in processes():
            with contextlib.suppress(OSError):
                place = "/proc/%d/cwd/%s%s" % (process, "../" * 40, facts["secret"])
                escaped(has_token(read(place)))
    """,
    read_a_file_through_an_open_folder="""
        for name in ["."] + os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                folder = os.open("/proc/self/fd/" + name if name != "." else name, os.O_RDONLY)
                path = "../" * 40 + facts["secret"]
                escaped(has_token(read(os.open(path, os.O_RDONLY, dir_fd=folder))))
    """,
    read_the_users_of_this_machine='escaped(read("/etc/passwd") == facts["passwd"])',
    read_a_temporary_file='escaped(has_token(read(facts["temporary"])))',
    read_a_file_in_shared_memory='escaped(has_token(read(facts["shared"])))',
    list_the_temporary_files='escaped("escape-" in " ".join(os.listdir("/tmp")))',
    read_the_settings_of_this_machine="""
        escaped(os.path.exists("/etc/hosts") and read("/etc/hosts") == facts["hosts"])
    """,
    read_the_devices_of_this_machine='escaped(len(os.listdir("/sys/class/net")) > 0)',
)

_SANDBOXES = attempts(
    "empty root",
    read_a_file_of_another_sandbox='escaped(has_token(read(facts["other_file"])))',
    write_a_file_of_another_sandbox="""
        with open(facts["other_file"], "r+b") as file:
            file.write(file.read(1))
        escaped()
    """,
    list_the_folder_of_another_sandbox='escaped(len(os.listdir(facts["other_folder"])) > 1)',
    read_the_key_of_another_kernel="""
        paths = glob.glob(facts["other_folder"] + "/**/connection.json", recursive=True)
        escaped(any(b"key" in read(path) for path in paths))
    """,
    connect_to_the_kernel_of_another_sandbox="""
        for path in pathlib.Path(facts["other_folder"]).rglob("*"):
            if path.is_socket():
                with socket.socket(socket.AF_UNIX) as line:
                    line.connect(str(path))
                    escaped()
    """,
    find_other_sandboxes_by_the_name_of_their_folders="""
        folders = [facts["other_folder"], os.path.dirname(facts["other_folder"])]
        escaped(any(map(os.path.isdir, folders)))
    """,
)

_ZYGOTE = attempts(
    "empty root",
    needs="zygote",
    connect_to_the_process_that_kernels_are_forked_from="""
        place = os.path.dirname(facts["other_folder"]) + "/zygote"
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(place)
        escaped()
    """,
)

_ENVIRONMENT = attempts(
    "read-only",
    add_a_module_to_the_environment="""
        folder = environment()
        os.chmod(folder, 0o755)
        file = pathlib.Path(folder, "intruder.py")
        file.write_text("")
        file.unlink()
        escaped()
    """,
    have_later_sandboxes_run_code="""
        folder = environment()
        os.chmod(folder, 0o755)
        file = pathlib.Path(folder, "zz-intruder.pth")
        file.write_text("")
        file.unlink()
        escaped()
    """,
    change_a_module_of_the_environment="""
        path = environment() + "/idna/core.py"
        os.chmod(path, 0o644)
        open(path, "ab").close()
        escaped()
    """,
    change_the_byte_code_of_a_module="""
        folder = environment() + "/idna/__pycache__"
        os.chmod(os.path.dirname(folder), 0o755)
        os.makedirs(folder, exist_ok=True)
        os.chmod(folder, 0o755)
        file = pathlib.Path(folder, "core.intruder.pyc")
        file.write_bytes(b"")
        file.unlink()
        escaped()
    """,
    remove_a_module_of_the_environment="""
        folder = environment() + "/idna"
        os.chmod(os.path.dirname(folder), 0o755)
        os.chmod(folder, 0o755)
        os.rename(folder + "/core.py", folder + "/moved.py")
        os.rename(folder + "/moved.py", folder + "/core.py")
        escaped()
    """,
    change_the_configuration_of_the_environment="""
        path = os.path.realpath(environment() + "/../../../pyvenv.cfg")
        os.chmod(path, 0o644)
        open(path, "ab").close()
        escaped()
    """,
    change_the_time_of_a_module="""
        path = environment() + "/idna/core.py"
        status = os.stat(path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        escaped()
    """,
)

# Who runs the tests may not own the interpreter, or the project.
_INTERPRETER = attempts(
    "read-only",
    root=True,
    change_the_program_that_starts_kernels="""
        module = sys.modules["_sandbox_kernel_host"].__file__
        os.utime(module, ns=(os.stat(module).st_atime_ns, os.stat(module).st_mtime_ns))
        escaped()
    """,
    change_the_rights_of_the_interpreter="""
        os.chmod("/proc/self/exe", stat.S_IMODE(os.stat("/proc/self/exe").st_mode))
        escaped()
    """,
    change_the_time_of_the_interpreter="""
        status = os.stat("/proc/self/exe")
        os.utime("/proc/self/exe", ns=(status.st_atime_ns, status.st_mtime_ns))
        escaped()
    """,
    set_an_attribute_of_the_interpreter="""
        os.setxattr("/proc/self/exe", "trusted.intruder", b"1")
        os.removexattr("/proc/self/exe", "trusted.intruder")
        escaped()
    """,
    put_a_file_beside_the_interpreter="""
        path = os.path.realpath("/proc/self/exe") + "-" + facts["token"]
        pathlib.Path(path).write_text("")
        os.unlink(path)
        escaped()
    """,
    change_a_program_of_this_machine="""
        status = os.stat("/usr/bin/env")
        os.utime("/usr/bin/env", ns=(status.st_atime_ns, status.st_mtime_ns))
        escaped()
    """,
    change_a_kernel_parameter="""
        value = read("/proc/sys/kernel/core_pattern")
        with open("/proc/sys/kernel/core_pattern", "wb") as file:
            file.write(value)
        escaped()
    """,
)

_MACHINE = (
    *attempts(
        "empty root",
        root=True,
        read_the_passwords_of_this_machine='escaped(b"root:" in read("/etc/shadow"))',
        have_this_machine_run_a_program="""
            file = pathlib.Path("/etc/cron.d/" + facts["token"][:8])
            file.write_text("")
            file.unlink()
            escaped()
        """,
        read_the_messages_of_the_kernel="""
            file = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
            escaped(len(os.read(file, 8192)) > 0)
        """,
    ),
    *attempts(
        "capabilities",
        root=True,
        make_a_device="""
            with contextlib.suppress(FileNotFoundError):
                os.unlink("device")
            os.mknod("device", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
            escaped(os.read(os.open("device", os.O_RDONLY), 1) == bytes(1))
        """,
        become_root='escaped(in_child(lambda: os.setuid(0) or os.chown("/etc", 0, 0)))',
        give_a_file_to_another_user="""
            pathlib.Path("mine").write_text("")
            os.chown("mine", 12345, 12345)
            escaped()
        """,
    ),
)

ATTEMPTS: tuple[Attempt, ...] = (
    *_USER,
    *_SANDBOXES,
    *_ZYGOTE,
    *_ENVIRONMENT,
    *_INTERPRETER,
    *_MACHINE,
)
