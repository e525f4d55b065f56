"""Every key of a spec, with two values, and the effects of the change between them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from builder.render import Rendered, render
from builder.spec import inherit, load_variants
from builder.spec.parent import Parent
from tests.support.samples import lock_of

HEAD = 'schema = 1\nname = "leaf"\n'
ZEROS, ONES = "0" * 64, "1" * 64
WHEEL = "a-1.0-py3-none-any.whl"
FILES = {
    "app/a.py": "1",
    "app/b/c": "2",
    "more/a.py": "3",
    "files/a": "a",
    "files/b": "b",
    "files/k.asc": "-----BEGIN PGP PUBLIC KEY BLOCK-----\n",
    "files/k.gpg": "\x98",
    f"files/{WHEEL}": "",
    WHEEL: "",
    "_one.toml": 'schema = 1\n[env]\nOF = "one"\n',
    "_two.toml": 'schema = 1\n[env]\nOF = "two"\n',
}
DOWNLOAD = '[[download]]\nurl = "https://host.example/a"\ntarget = "/opt/a"\n'
MODEL = '[[model]]\nrepo = "org/a"\ntarget = "/opt/a"\n'
RUN = '[[run]]\ncommand = "true"\n'
FILE = '[[files]]\nsource = "files/a"\ntarget = "/opt/a"\n'
FOLDER = '[[files]]\nsource = "app/"\ntarget = "/opt/app"\n'
SERVICE = '[base]\nimage = "python:3.13"\n[service]\ncommand = ["serve"]\n'
WARM = '[warmup]\nlevel = "memory"\nimports = ["json"]\n'
PACKAGES = '[python]\npackages = ["six", "idna"]\n'
CHECK = '[[verify]]\nname = "a"\n'


def repository(**changes: str) -> str:
    values = {
        "uri": '"https://deb.example.org/a"',
        "suites": '["stable"]',
        "components": '["main"]',
        "key": '"files/k.asc"',
    }
    lines = (f"{key} = {value}\n" for key, value in (values | changes).items())
    return "[[system.repository]]\n" + "".join(lines)


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """A key, a spec with VALUE in its place, and two values for it. The change affects the input
    `plan` of a plan, if any, and `files` besides template.toml."""

    key: str
    spec: str
    before: str
    after: str
    plan: str | None
    files: str = "Dockerfile"

    def text(self, value: str) -> str:
        return HEAD.replace('name = "leaf"\n', "" if self.key == "name" else 'name = "leaf"\n') + (
            self.spec.replace("VALUE", value)
        )


LOCAL = "http://localhost"
NOT_IN_TEMPLATE_TOML = ("python.accept-broken", "files.folder-mode")
# The lock alone has the backend that was wanted.
NOT_DECLARED = (*NOT_IN_TEMPLATE_TOML, "python.torch-backend")
CASES = [
    Case("name", "name = VALUE\n", '"a"', '"b"', None, "Dockerfile warmup.py"),
    Case("description", "description = VALUE\n", '"a"', '"b"', "description"),
    Case("extends", "extends = VALUE\n", '"_one"', '"_two"', "extends"),
    Case("from-template", "from-template = VALUE\n", '"below"', '"other"', "from-template"),
    Case("network", "network = VALUE\n", '"none"', '"allow"', "network", ""),
    Case("network", "network = [VALUE]\n", '"a.example.org"', '"*.example.org"',
         "network", ""),
    Case("base.image", "[base]\nimage = VALUE\n", '"a:1"', '"a:2"', "base.image"),
    Case("base.python", "[base]\npython = VALUE\n", '">=3.12"', '">=3.13"', "base.python"),
    Case("env", "[env]\nA = VALUE\n", '"a"', '"b"', "env.A"),
    Case("service.command", SERVICE.replace('"serve"', "VALUE") + "ready-port = 1\n",
         '"a"', '"b"', "service.command", "warmup.py"),
    Case("service.ready-url", f"{SERVICE}ready-url = VALUE\n", f'"{LOCAL}/a"', f'"{LOCAL}/b"',
         "service.ready-url", "warmup.py"),
    Case("service.ready-command", f'{SERVICE}ready-command = ["try", VALUE]\n', '"a"', '"b"',
         "service.ready-command", "warmup.py"),
    Case("service.ready-port", f"{SERVICE}ready-port = VALUE\n", "1", "2", "service.ready-port",
         "warmup.py"),
    Case("resources.cpu", "[resources]\ncpu = VALUE\n", "2", "4", "resources.cpu", ""),
    Case("resources.memory-mb", "[resources]\nmemory-mb = VALUE\n", "512", "1024",
         "resources.memory-mb", ""),
    Case("resources.free-disk-mb", "[resources]\nfree-disk-mb = VALUE\n", "1", "2",
         "resources.free-disk-mb", ""),
    Case("python.packages", "[python]\npackages = [VALUE]\n", '"six"', '"idna"',
         "leaf: python.packages", "requirements/leaf.txt"),
    Case("python.packages", "[python]\npackages = [VALUE]\n", f'"a @ https://a/a.zip#sha256={ZEROS}"',
         f'"a @ https://b/a.zip#sha256={ZEROS}"', "leaf: python.packages", "requirements/leaf.txt"),
    Case("python.packages", "[python]\npackages = [VALUE]\n", f'"a @ files/{WHEEL}"',
         f'"a @ {WHEEL}"', f"leaf: wheel files/{WHEEL}",
         "requirements/leaf.txt"),
    Case("python.torch-backend", "[python]\npackages = ['torch']\ntorch-backend = VALUE\n",
         '"cpu"', '"xpu"', "leaf: python.torch-backend"),
    Case("python.accept-broken", "[python]\naccept-broken = [VALUE]\n", '"a"', '"b"', None,
         ""),
    Case("python.not-imported", f"{PACKAGES}not-imported = [VALUE]\n", '"six"', '"idna"',
         "python.not-imported", ""),
    Case("system.packages", "[system]\npackages = [VALUE]\n", '"curl=8.*"', '"git/stable"',
         "leaf: system.packages"),
    Case("system.repository.uri", repository(uri="VALUE"), '"https://a/"', '"https://b/"',
         "leaf: repository https://b/"),
    Case("system.repository.suites", repository(suites="[VALUE]"), '"a"', '"b"',
         "leaf: repository https://deb.example.org/a"),
    Case("system.repository.components", repository(components="[VALUE]"), '"a"', '"b"',
         "leaf: repository https://deb.example.org/a"),
    Case("system.repository.key", repository(key="VALUE"), f'"https://a/k.asc#sha256={ZEROS}"',
         f'"https://a/k.asc#sha256={ONES}"', "leaf: repository https://deb.example.org/a"),
    Case("system.repository.key", repository(key="VALUE"), '"files/k.asc"', '"files/k.gpg"',
         "leaf: repository https://deb.example.org/a",
         "Dockerfile repositories/leaf/0.asc repositories/leaf/0.gpg"),
    Case("node.packages", "[node]\npackages = [VALUE]\n", '"a@1"', '"@b/c@^2"',
         "leaf: node.packages", "node/leaf/package.json"),
    Case("run.command", "[[run]]\ncommand = VALUE\n", '"true"', '"id"', "leaf: run 1"),
    Case("run.script", "[[run]]\nscript = VALUE\n", '"files/a"', '"files/b"', "leaf: run 1",
         "Dockerfile run/leaf/0/files/a run/leaf/0/files/b"),
    Case("run.user", f"{RUN}user = VALUE\n", '"root"', '"user"', "leaf: run 1"),
    Case("run.before", f"{RUN}before = VALUE\n{PACKAGES}", "", '"packages"', "leaf: run 1"),
    Case("run.inputs", f"{RUN}inputs = [VALUE]\n", '"files/a"', '"files/b"', "leaf: run 1",
         "run/leaf/0/files/a run/leaf/0/files/b"),
    Case("run.env", f"{RUN}env = {{ A = VALUE }}\n", '"a"', '"b"', "leaf: run 1"),
    Case("run.env", f'{RUN}env = {{ VALUE = "1" }}\n', '"A"', '"B"', "leaf: run 1"),
    Case("run.network", f"{RUN}network = VALUE\n", "true", "false", "leaf: run 1"),
    Case("download.url", DOWNLOAD.replace('"https://host.example/a"', "VALUE"), '"https://a/a"',
         '"https://a/b"', "leaf: download /opt/a"),
    Case("download.sha256", f"{DOWNLOAD}sha256 = VALUE\n", f'"{ZEROS}"', f'"{ONES}"',
         "leaf: download /opt/a"),
    Case("download.target", DOWNLOAD.replace('"/opt/a"', "VALUE"), '"/opt/a"', '"/opt/b"',
         "leaf: download /opt/b"),
    Case("download.owner", f"{DOWNLOAD}owner = VALUE\n", '"root"', '"user"',
         "leaf: download /opt/a"),
    Case("download.mode", f"{DOWNLOAD}mode = VALUE\n", '"0644"', '"0755"',
         "leaf: download /opt/a"),
    Case("download.extract", f"{DOWNLOAD}extract = VALUE\n", "false", "true",
         "leaf: download /opt/a"),
    Case("files.source", FILE.replace('"files/a"', "VALUE"), '"files/a"', '"files/b"',
         "leaf: file /opt/a", "files/leaf/opt/a"),
    Case("files.source", FOLDER.replace('"app/"', "VALUE"), '"app/"', '"more/"',
         "leaf: file /opt/app/b/c", "Dockerfile folders/leaf/0/a.py folders/leaf/0/b/c"),
    Case("files.target", FILE.replace('"/opt/a"', "VALUE"), '"/opt/a"', '"/opt/b"',
         "leaf: file /opt/b", "Dockerfile files/leaf/opt/a files/leaf/opt/b"),
    Case("files.target", FOLDER.replace('"/opt/app"', "VALUE"), '"/opt/app"', '"/opt/b"',
         "leaf: folder /opt/b"),
    Case("files.owner", f"{FILE}owner = VALUE\n", '"root"', '"user"', "leaf: file /opt/a"),
    Case("files.owner", f"{FOLDER}owner = VALUE\n", '"root"', '"user"', "leaf: folder /opt/app"),
    Case("files.mode", f"{FILE}mode = VALUE\n", '"0644"', '"0600"', "leaf: file /opt/a"),
    Case("files.mode", f"{FOLDER}mode = VALUE\n", '"0644"', '"0600"', "leaf: file /opt/app/b/c"),
    Case("files.folder-mode", f"{FOLDER}folder-mode = VALUE\n", '"0755"', '"0700"',
         "leaf: folder /opt/app"),
    Case("workdir.path", "[workdir]\npath = VALUE\n", '"/opt/a"', '"/opt/b"', "workdir.path"),
    Case("warmup.level", WARM.replace('"memory"', "VALUE"), '"none"', '"disk"', "warmup.level",
         "Dockerfile warmup.py"),
    Case("warmup.imports", WARM.replace('"json"', "VALUE"), '"json"', '"csv"', "warmup.imports",
         "warmup.py"),
    Case("warmup.reseed", f"{WARM}reseed = VALUE\n", '"a"', '"b"', "warmup.reseed",
         "warmup_reseed.py"),
    Case("verify.name", CHECK.replace('"a"', "VALUE") + 'code = "1"\n', '"a"', '"b"',
         "leaf: verify 'b'", ""),
    Case("verify.code", f"{CHECK}code = VALUE\n", '"1"', '"2"', "leaf: verify 'a'", ""),
    Case("verify.command", f"{CHECK}command = VALUE\n", '"true"', '"id"', "leaf: verify 'a'", ""),
    Case("verify.exit-code", f'{CHECK}command = "a"\nexit-code = VALUE\n', "0", "1",
         "leaf: verify 'a'", ""),
    Case("verify.http.url", f"{CHECK}http = {{ url = VALUE }}\n", f'"{LOCAL}/a"', f'"{LOCAL}/b"',
         "leaf: verify 'a'", ""),
    Case("verify.http.status", f'{CHECK}http = {{ url = "{LOCAL}", status = VALUE }}\n', "200",
         "404", "leaf: verify 'a'", ""),
    Case("verify.http.contains", f'{CHECK}http = {{ url = "{LOCAL}", contains = VALUE }}\n',
         '"a"', '"b"', "leaf: verify 'a'", ""),
    Case("verify.stdout", f'{CHECK}code = "1"\nstdout = VALUE\n', '"a"', '"b"',
         "leaf: verify 'a'", ""),
    Case("verify.timeout", f'{CHECK}code = "1"\ntimeout = VALUE\n', "60", "61",
         "leaf: verify 'a'", ""),
]  # fmt: skip
for kind in ("model", "dataset"):
    table = MODEL.replace("model", kind)
    source = 'repo = "org/a"'
    CASES += [
        Case(f"{kind}.repo", table.replace('"org/a"', "VALUE"), '"org/a"', '"org/b"',
             f"leaf: {kind} /opt/a"),
        Case(f"{kind}.revision", f"{table}revision = VALUE\n", '"v1"', '"v2"',
             f"leaf: {kind} /opt/a revision", ""),
        Case(f"{kind}.url", table.replace(source, "url = VALUE"), '"https://a/a"', '"https://a/b"',
             f"leaf: {kind} /opt/a"),
        Case(f"{kind}.url", table.replace(source, "url = VALUE"), '"s3://bucket/a/"',
             '"gs://bucket/a/"', f"leaf: {kind} /opt/a"),
        Case(f"{kind}.path", table.replace(source, "path = VALUE"), '"variants/app"',
             '"variants/more"', f"leaf: {kind} /opt/a"),
        Case(f"{kind}.files", f"{table}files = [VALUE]\n", '"*"', '"*.json"',
             f"leaf: {kind} /opt/a files", ""),
        Case(f"{kind}.target", table.replace('"/opt/a"', "VALUE"), '"/opt/a"', '"/opt/b"',
             f"leaf: {kind} /opt/b"),
    ]  # fmt: skip


def with_files(folder: Path) -> Path:
    """Write `FILES` to a project that lacks them, and return its folder of specs."""
    variants = folder / "variants"
    for path, content in () if variants.exists() else FILES.items():
        (variants / path).parent.mkdir(parents=True, exist_ok=True)
        (variants / path).write_bytes(content.encode("latin-1"))
    return variants


def rendered(folder: Path, text: str) -> Rendered:
    """Render the one template of a project with `FILES` and an invented lock."""
    variants = with_files(folder)
    (variants / "leaf.toml").write_text(text, encoding="utf-8")
    (variant,) = load_variants(variants)
    if variant.from_template:
        variant = inherit(variant, parent(variant.from_template))
    torch = next((stage.torch_backend for stage in variant.stages if stage.torch_backend), None)
    lock = lock_of(variant, torch_backend=torch)
    stages = [
        dataclasses.replace(locked, node_packages=stage.node, node="{}") if stage.node else locked
        for locked, stage in zip(lock.stages, variant.stages, strict=True)
    ]
    return render(variant, dataclasses.replace(lock, stages=tuple(stages)))


def parent(reference: str) -> Parent:
    """Return the build that `from-template` refers to."""
    return Parent(
        reference=reference,
        target="e2b",
        ref=reference,
        name=reference,
        digest="sha256:" + "b" * 64,
        image="localhost:1/python:3.13",
        python=">=3.12",
        level="none",
    )
