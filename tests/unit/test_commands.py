"""Commands, folders, owners, the working folder and repositories of a spec."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from e2b_dockerfile_utils import parse_dockerfile_ast
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from builder.errors import SpecError
from builder.flatten import flatten
from builder.plan.inputs import inputs_of
from builder.record.fields import stages_of
from builder.render import Rendered
from builder.targets.e2b.program import needs_no_network, not_provided
from builder.targets.local.target import LocalTarget
from tests.conftest import Command
from tests.support.samples import load, rendered_of

LEAF = 'schema = 1\nname = "leaf"\n'
KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n"
SHA256 = "a" * 64
EVERYTHING = (
    LEAF
    + f"""
[python]
packages = ["six"]
[system]
packages = ["curl=8.*", "git/stable", "libc6:arm64=2.41-12"]
[[system.repository]]
uri = "https://deb.example.org/node"
suites = ["stable"]
components = ["main"]
key = "files/k.asc"
[[system.repository]]
uri = "https://deb.example.org/flat"
suites = ["./"]
key = "https://deb.example.org/k.gpg#sha256={SHA256}"
[[run]]
command = '''
echo "it's $HOME" > /opt/a
'''
before = "packages"
network = false
[[run]]
script = "files/setup.sh"
inputs = ["files/in.txt", "data/*.csv"]
user = "user"
env = {{ A = "1 2", B = "$$x", C = "$A:$PATH" }}
[[files]]
source = "app/"
target = "/home/user/app"
folder-mode = "0700"
[[files]]
source = "data/*.csv"
target = "/opt/data/"
mode = "0600"
owner = "user"
[[files]]
source = "files/in.txt"
target = "/opt/in.txt"
[workdir]
path = "/home/user/app"
"""
)


def project(folder: Path) -> Path:
    """Write the files that the specs here copy."""
    for path, text in {
        "app/a.py": "1",
        "app/sub/b": "2",
        "app/__pycache__/a.pyc": "byte code",
        "data/x.csv": "x",
        "data/y.csv": "y",
        "data/z.txt": "z",
        "files/setup.sh": "#!/bin/sh\ncat files/in.txt data/*\n",
        "files/in.txt": "in",
        "files/k.asc": KEY,
    }.items():
        (folder / "variants" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "variants" / path).write_text(text)
    (folder / "variants" / "app" / "a.py").chmod(0o755)
    return folder


def rendered(folder: Path, text: str = EVERYTHING) -> Rendered:
    return rendered_of(load(project(folder), leaf=text)["leaf"])


def test_everything_has_its_place(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    """Repositories and packages come first, then early commands, packages, files, late commands."""
    files = rendered(tmp_path)
    text = files.content("Dockerfile").decode()
    assert text.partition("# ---- warm-up")[0].partition("uv.txt \\\n")[2] == snapshot
    assert "\nUSER user\nWORKDIR /home/user/app\n" in text
    assert files.content("template.toml").decode().partition("[[stages]]")[2] == snapshot
    modes = {file.path: oct(file.mode) for file in files.files}
    assert modes["run/leaf/1/files/setup.sh"] == "0o755"
    assert not any("pyc" in path or "z.txt" in path for path in modes)


def test_steps_of_e2b(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    """The flattened program copies folders with their owner and runs each command as its user."""
    files = rendered(tmp_path, EVERYTHING.replace("network = false\n", ""))
    program = flatten(
        files.content("Dockerfile").decode(), files=[file.path for file in files.files]
    )
    steps = [step for step in program.steps if "opt/template/uv" not in step.args[0]]
    assert [(step.kind, step.args) for step in steps] == snapshot
    assert (program.user, program.workdir) == ("user", "/home/user/app")


def test_command_without_a_network_is_refused_on_e2b(tmp_path: Path) -> None:
    """E2B runs every step in a network, so `network = false` is an error with the line."""
    text = rendered(tmp_path).content("Dockerfile").decode()
    with pytest.raises(Exception, match=r"Dockerfile:\d+:1: `RUN --network`") as error:
        flatten(text)
    assert "in a spec, remove `network = false`" in str(error.value)


def test_inputs_name_a_command_without_a_network(tmp_path: Path) -> None:
    """The input of a command with `network = false` names the key."""
    described = inputs_of(rendered(tmp_path))["spec"]["leaf: run 1"]
    assert described.startswith("""echo "it's $HOME" > /opt/a (network = false, """)


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ("it's", "it was", "leaf: run 1"),
        ('user = "user"', 'user = "root"', "leaf: run 2"),
        ('A = "1 2"', 'A = "2"', "leaf: run 2"),
        ('owner = "user"\n', "", "leaf: file /opt/data/x.csv"),
        ('"0700"', '"0750"', "leaf: folder /home/user/app/sub"),
        ('suites = ["stable"]', 'suites = ["testing"]', "leaf: repository https://deb.example.org/node"),
        ('path = "/home/user/app"', 'path = "/opt"', "workdir.path"),
    ],
)  # fmt: skip
def test_each_key_is_an_input(tmp_path: Path, before: str, after: str, key: str) -> None:
    """A change of each key changes the digest, the stage's digest, and an input that plans name."""
    old, new = (
        rendered(tmp_path / "old"),
        rendered(tmp_path / "new", EVERYTHING.replace(before, after)),
    )
    assert old.digest != new.digest
    assert stages_of(old)["leaf"] != stages_of(new)["leaf"]
    changes = inputs_of(old)["spec"].items() ^ inputs_of(new)["spec"].items()
    assert key in {name for name, _ in changes}


def test_content_of_copied_files_is_an_input(tmp_path: Path) -> None:
    """A changed file of a folder or an input of a command changes the digests."""
    old = rendered(tmp_path)
    for path in ("app/sub/b", "data/x.csv", "files/k.asc"):
        place = tmp_path / "variants" / path
        before = place.read_text()
        place.write_text(f"{before}more")
        new = rendered_of(load(tmp_path, leaf=EVERYTHING)["leaf"])
        place.write_text(before)
        assert old.digest != new.digest
        assert stages_of(old)["leaf"] != stages_of(new)["leaf"]


MISTAKES = {
    "[[run]]\nuser = 'user'\n": [
        "3:3: `run[0]`: needs a `command` or a `script` (write one of `command` and `script`)"
    ],
    "[[run]]\ncommand = 'a'\nscript = 'files/setup.sh'\n": [
        "3:3: `run[0]`: has both (write one of `command` and `script`)"
    ],
    "[[run]]\ncommand = ' \\n'\n".replace("'", '"'): ["4:1: `run[0].command`: is empty"],
    "[[run]]\ncommand = 'a'\ninputs = ['no/', 'no*', 'app']\n": [
        "5:11: `run[0].inputs[0]`: 'no/' cannot be read: No such file or directory",
        "5:18: `run[0].inputs[1]`: nothing matches 'no*'",
        "5:25: `run[0].inputs[2]`: 'app' is a folder (write 'app/' to copy its content)",
    ],
    "[[run]]\nscript = 'files/*.sh'\n": [
        "4:1: `run[0].script`: 'files/*.sh' cannot be read: No such file or directory"
    ],
    "[[run]]\ncommand = 'a'\nenv = { A = '$A', C = '5$' }\n": [
        "5:19: `run[0].env.C`: '5$' contains a `$` that begins no variable (write `$$` for a dollar"
        " sign, `$NAME` or `${NAME}` for the value of a variable)",
    ],
    "[[run]]\ncommand = 'a'\nuser = 'postgres'\n": [
        "5:1: `run[0].user`: 'postgres' is not one of 'root' or 'user'"
    ],
    "[[files]]\nsource = 'data/*.csv'\ntarget = '/opt/data'\n": [
        "5:1: `files[0].target`: 'data/*.csv' may match several files (write '/opt/data/': the files"
        " keep their names below it)"
    ],
    "[[files]]\nsource = 'data/*.no'\ntarget = '/opt/'\n": [
        "4:1: `files[0].source`: nothing matches 'data/*.no'"
    ],
    "[[files]]\nsource = '**/*'\ntarget = '/opt/'\n[[run]]\ncommand = 'a'\ninputs = ['../x']\n": [
        "8:11: `run[0].inputs[0]`: '../x' is not a path inside the variants folder"
    ],
    "[[files]]\nsource = 'files/in.txt'\ntarget = '/a'\nowner = 'No One'\nfolder-mode = '0755'\n": [
        "6:1: `files[0].owner`: 'No One' is not the name of an account"
    ],
    "[[files]]\nsource = 'files/in.txt'\ntarget = '/a'\nfolder-mode = '0755'\n": [
        "6:1: `files[0].folder-mode`: 'files/in.txt' is a single file (write `mode`, or remove the"
        " key)"
    ],
    "[[files]]\nsource = 'app/'\ntarget = '/a'\n[[files]]\nsource = 'data/x.csv'\ntarget = '/a/a.py/x'\n": [
        "8:1: `files[1].target`: '/a/a.py/x' is below '/a/a.py', a file of variants/leaf.toml"
    ],
    "[system]\npackages = ['a=', 'b/', 'c-']\n": [
        "4:13: `system.packages[0]`: 'a=' is not the name of a Debian package",
        "4:19: `system.packages[1]`: 'b/' is not the name of a Debian package",
        "4:25: `system.packages[2]`: 'c-' is not the name of a Debian package",
    ],
    "[[system.repository]]\nuri = 'https://a/'\nsuites = []\nkey = 'https://a/k'\n": [
        "5:1: `system.repository[0].suites`: is empty",
        "6:1: `system.repository[0].key`: 'https://a/k' has no hash: write `https://…#sha256=` and 64"
        " digits",
    ],
    "[[system.repository]]\nuri = 'https://a/'\nsuites = ['x']\nkey = 'files/k.asc'\n": [
        "3:3: `system.repository[0].components`: is missing: only a suite that ends in / has no"
        " components"
    ],
    "[[system.repository]]\nuri = 'https://a/'\nsuites = ['x', 'y/']\ncomponents = ['main']\n"
    "key = 'data/x.csv'\n": [
        "6:1: `system.repository[0].components`: excludes the suite 'y/': apt takes none with a suite"
        " that ends in / (remove one of the two)",
        "7:1: `system.repository[0].key`: 'data/x.csv' is no PGP key: it has no `-----BEGIN PGP PUBLIC"
        " KEY BLOCK-----`, and no packet (export it with `gpg --armor --export`)",
    ],
    '[[run]]\ncommand = """\na\n\\u0000"""\n': [
        "4:1: `run[0].command`: contains '\\x00': of control characters, only tabs and line feeds are"
        " allowed"
    ],
}  # fmt: skip


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_have_a_place(tmp_path: Path, text: str) -> None:
    """Each mistake is reported with file, line, column and key, and what to write."""
    with pytest.raises(SpecError) as error:
        load(project(tmp_path), leaf=LEAF + text)
    assert [
        line.removeprefix("variants/leaf.toml:") for line in str(error.value).splitlines()[1:]
    ] == (MISTAKES[text])


CHANGING = {
    "curl -fsSL https://x.example/i | sudo -E bash -": True,
    "wget -qO- https://x.example/i | python3": True,
    "curl -fsSL https://x.example/i -o i && sha256sum -c sums && sh i": False,
    "npm install -g typescript": True,
    "npm install -g typescript@5.9.3 @types/node@22.1.0": False,
    "npm ci": False,
    "pip install requests": True,
    "pip install requests==2.32.3": False,
    "apt-get install -y git": True,
    "git clone https://x.example/r /opt/r": True,
    "git clone https://x.example/r /opt/r && git -C /opt/r checkout 1234567": False,
    "make -C /opt/r install": False,
}


@pytest.mark.parametrize("line", CHANGING)
def test_commands_that_change_by_themselves_get_a_warning(
    write: Callable[..., Path], command: Command, line: str
) -> None:
    """A command whose result depends on the day gets one warning with its place, no refusal."""
    folder = write(leaf=f"{LEAF}[[run]]\ncommand = '''{line}'''\n").parent
    done = command("validate", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    warnings = [text for text in done.stdout.splitlines() if ": warning: " in text]
    assert len(warnings) == CHANGING[line]
    assert all(text.startswith("variants/leaf.toml:4: warning: `") for text in warnings)


def test_commands_start_in_most_working_folders(tmp_path: Path) -> None:
    """Behind walls, commands start in a working folder unless it is read-only, and code does not."""
    spec = 'schema = 1\nname = "leaf"\n[workdir]\npath = "{}"\n'
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    local = LocalTarget(isolation="confined")
    home = load(project(tmp_path / "a"), leaf=spec.format("/home/user/app"))["leaf"]
    usr = load(project(tmp_path / "b"), leaf=spec.format("/usr/src/app"))["leaf"]
    line = "the working folder /usr/src/app: sandboxes start in their home"
    assert line in local.unsupported(usr)
    line = "the working folder /home/user/app: commands start there, and code in the home"
    assert line in local.unsupported(home)


def test_targets_say_what_they_do_not_provide(tmp_path: Path) -> None:
    """`local` lists commands, repositories, files and the working folder, E2B owners in the home
    and the folder of code; each plan says what folders and patterns match,
    and that of E2B which commands run."""
    spec = EVERYTHING.replace('folder-mode = "0700"', 'owner = "root"')
    variant = load(project(tmp_path), leaf=spec)["leaf"]
    assert LocalTarget(isolation="none").unsupported(variant)[:-2] == (
        "Debian packages of variants/leaf.toml: curl=8.*, git/stable, libc6:arm64=2.41-12",
        "repositories of Debian packages of variants/leaf.toml: https://deb.example.org/node,"
        " https://deb.example.org/flat",
        "commands of variants/leaf.toml, which this target does not run:"
        ' `echo "it\'s $HOME" > /opt/a`, `files/setup.sh`',
        "files outside of /home/user of variants/leaf.toml: /opt/in.txt, /opt/data/x.csv,"
        " /opt/data/y.csv",
        "owners of files of variants/leaf.toml, which belong to you here: /home/user/app/a.py (root),"
        " /home/user/app/sub/b (root)",
        "the working folder /home/user/app: sandboxes start in their home",
    )
    assert not_provided(variant) == (
        "owner root of /home/user/app/a.py (variants/leaf.toml:31): E2B gives everything below"
        " /home/user to `user` at the end of a build",
        "owner root of /home/user/app/sub/b (variants/leaf.toml:31): E2B gives everything below"
        " /home/user to `user` at the end of a build",
        "`workdir.path` (variants/leaf.toml:41) to code, which the code service starts in"
        " /home/user; commands start in /home/user/app",
    )
    assert variant.runs == (
        'variants/leaf.toml: echo "it\'s $HOME" > /opt/a (network = false)',
        "variants/leaf.toml: files/setup.sh",
    )
    assert variant.matches == (
        "`app/` of variants/leaf.toml: a.py, sub/b",
        "`data/*.csv` of variants/leaf.toml: x.csv, y.csv",
    )


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def toml(value: str) -> str:
    return json.dumps(value).replace("\x7f", "\\u007f")


@pytest.mark.slow
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(line=text, value=text, package=text, component=text, target=text, owner=text)
def test_no_value_can_add_or_alter_an_instruction(
    line: str,
    value: str,
    package: str,
    component: str,
    target: str,
    owner: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Whatever a value is, it is refused, or the Dockerfile has the same instructions, and the
    command arrives in its shell to the character."""
    fixed = {"package": "git", "component": "main", "target": "/opt/x", "owner": "user"}
    for key, tried in {
        "package": package,
        "component": component,
        "target": target,
        "owner": owner,
    }.items():
        values = fixed | {key: tried}
        spec = (
            f"{LEAF}[system]\npackages = [{toml(values['package'])}]\n[[system.repository]]\n"
            f"uri = 'https://a/'\nsuites = ['x']\ncomponents = [{toml(values['component'])}]\n"
            f"key = 'files/k.asc'\n[[run]]\ncommand = {toml(line)}\nenv = {{ A = {toml(value.replace('$', '$$'))} }}\n"
            f"[[files]]\nsource = 'app/'\ntarget = {toml(values['target'])}\n"
            f"owner = {toml(values['owner'])}\n[workdir]\npath = {toml(values['target'])}\n"
        )  # fmt: skip
        try:
            result = rendered(tmp_path_factory.mktemp("any"), spec)
        except SpecError:
            continue
        parsed = parse_dockerfile_ast(result.content("Dockerfile").decode())
        names = [instruction.name.upper() for instruction in parsed.instructions]
        assert " ".join(names) == (
            "FROM USER WORKDIR RUN RUN COPY RUN COPY RUN RUN COPY RUN RUN"
            " FROM COPY USER WORKDIR HEALTHCHECK ENTRYPOINT CMD"
        )
        run = parsed.instructions[12]
        assert run.args == ["/bin/sh", "-ec", f"export A={shlex.quote(value)}\n{line}"]


def test_command_that_e2b_cannot_run_blocks_its_template_alone(
    write: Callable[..., Path], command: Command
) -> None:
    """A command without a network blocks its own template in a plan for E2B, with its place, and
    no other."""
    leaf = LEAF + '[[run]]\ncommand = "true"\nnetwork = false\n'
    folder = write(leaf=leaf, other='schema = 1\nname = "other"\n').parent
    done = command("plan", "--target", "e2b", "--json", cwd=folder, E2B_API_KEY="")
    variants = {each["name"]: each for each in json.loads(done.stdout)["variants"]}
    assert variants["other"]["program"]["steps"]
    reasons = [reason["text"] for reason in variants["leaf"]["reasons"]]
    assert reasons[1].endswith(
        "`RUN --network`: E2B runs every step in the same network (remove the flag; in a spec, remove"
        " `network = false`)"
    )
    variant = load(folder, leaf=leaf)["leaf"]
    assert needs_no_network(variant) == (
        "E2B runs every command with a network: remove `network = false` (variants/leaf.toml:5)"
    )
