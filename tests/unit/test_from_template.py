"""Specs that are from a template: what they say, inherit, and are rendered to."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from builder import record, registry
from builder.errors import SpecError, StaleLockError, TemplateError
from builder.lock.committed import committed_parent, read_committed
from builder.plan import inputs_of
from builder.plan.steps import program_of
from builder.project import Project
from builder.record import contents_of
from builder.render import Rendered, write
from builder.spec import Parent, Variant, inherit
from builder.spec.settings import settings_of
from builder.workflow import BuildRequest, Context, Prepared
from builder.workflow.parents import generations, look_up_parents, with_children
from tests.conftest import BASE
from tests.support.samples import load, problems, rendered_of, verified_of

FROM = "schema = 1\nname = 'leaf'\nfrom-template = 'below'\n"
REF = "abc:00000000-0000-0000-0000-000000000001"
PARENT = Parent(
    reference="below",
    target="e2b",
    ref=REF,
    name="below",
    digest="sha256:" + "b" * 64,
    image="localhost:1/python:3.13",
    python=">=3.12",
    level="memory",
    env={"A": "below", "PATH": "/below:${PATH}"},
    packages={"torch": "2.9.1+cpu", "numpy": "1.0 | 2.0", "idna": "3.1"},
    stages={"_base": "sha256:" + "c" * 64},
)


def leaf(folder: Path, more: str = "", *, parent: Parent = PARENT) -> Variant:
    return inherit(load(folder, leaf=FROM + more)["leaf"], parent)


def rendered(folder: Path, more: str = "", *, parent: Parent = PARENT) -> Rendered:
    return rendered_of(leaf(folder, more, parent=parent), digest=None)


def test_dockerfile(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    """The first stage starts from the image of the parent's pre-check, which has the account and
    the installer. Login shells get the variables of parent and child."""
    text = rendered(tmp_path, "[env]\nB = '$A/x'\n[python]\npackages = ['six']\n")
    assert text.content("Dockerfile").decode() == snapshot


def named(folder: Path, **parents: str) -> dict[str, Variant]:
    """Load a template for each name, each from the one that is given, if any."""
    texts = {
        name: f"schema = 1\nname = '{name}'\n" + (f"from-template = '{parent}'\n" if parent else "")
        for name, parent in parents.items()
    }
    return load(folder, **texts)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"leaf": FROM + "[base]\npython = '>=3.12'\n"},
            "variants/leaf.toml:4:2: `base`: excludes `from-template`: the base is the template"
            " 'below' (remove one of the two)",
        ),
        (
            {"_base": BASE, "leaf": FROM + "extends = '_base'\n"},
            "variants/leaf.toml:3:1: `from-template`: excludes `extends`: the base of this spec is"
            " that of variants/_base.toml (remove one of the two, or move `from-template` to"
            " variants/_base.toml)",
        ),
        (
            {"leaf": FROM.replace("below", "be low")},
            "variants/leaf.toml:3:1: `from-template`: 'be low' is not a template: expected its"
            " name, NAME@CHANNEL, or a ref",
        ),
        (
            {"leaf": FROM.replace("below", "a@b@c")},
            "variants/leaf.toml:3:1: `from-template`: 'a@b@c' is not a template: expected its"
            " name, NAME@CHANNEL, or a ref",
        ),
        (
            {"_base": BASE, "leaf": FROM.replace("below", "_base")},
            "variants/leaf.toml:3:1: `from-template`: variants/_base.toml is an abstract spec, of which"
            ' there is no template (write `extends = "_base"` instead)',
        ),
    ],
)
def test_mistakes(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    """A spec has one base: an image, that of the spec that it extends, or a template."""
    with pytest.raises(SpecError):
        load(tmp_path, **files)
    assert problems(tmp_path / "variants") == [expected]


def test_cycle(tmp_path: Path) -> None:
    """Templates that are from each other are a mistake that names all of them, once."""
    with pytest.raises(SpecError):
        named(tmp_path, a="c", b="a@beta", c="b", d="a")
    assert problems(tmp_path / "variants") == [
        "variants/a.toml:3:1: `from-template`: is from itself: a → c → b → a"
    ]


def test_order_and_children(tmp_path: Path) -> None:
    """Each group of templates is only from earlier ones, and children are found at any depth."""
    variants = named(tmp_path, a="c@beta", b="elsewhere", c="", d="a")
    groups = generations(list(variants.values()))
    assert [[each.name for each in group] for group in groups] == [["b", "c"], ["a"], ["d"]]
    selected = with_children([variants["c"]], variants.values())
    assert [each.name for each in selected] == ["c", "a", "d"]


def test_what_is_inherited(tmp_path: Path) -> None:
    """Variables, base image, Python and PyTorch's backend come from the parent; PATH goes on."""
    variant = leaf(tmp_path, "[env]\nB = 'own'\nPATH = '/own:$PATH'\n")
    assert variant.env == {"A": "below", "B": "own", "PATH": "/own:/below:${PATH}"}
    assert variant.stages[0].env == {"B": "own", "PATH": "/own:/below:${PATH}"}
    assert (variant.image, variant.python, variant.python_floor) == (
        "localhost:1/python:3.13",
        ">=3.12",
        "3.12",
    )
    assert variant.stages[0].torch_backend == "cpu"
    assert PARENT.pins == {"torch": "2.9.1+cpu", "idna": "3.1"}


def test_config_names_no_base_image(tmp_path: Path) -> None:
    """The resolved spec has `from-template` with its place, and no base image."""
    shown = {
        setting.key: setting.place for setting in settings_of(load(tmp_path, leaf=FROM)["leaf"])
    }
    assert shown["from-template",] == "variants/leaf.toml:3"
    assert not [key for key in shown if key[0] == "base"]


def test_dockerfile_and_program(tmp_path: Path) -> None:
    """The Dockerfile is on the image of the parent's pre-check and installs no installer again; on
    E2B the program is on the parent's build, and sets user and folder anew."""
    result = rendered(tmp_path, "[env]\nB = 'own'\n[python]\npackages = ['six']\n")
    text = result.content("Dockerfile").decode()
    assert (
        f"# The build {REF}; with Docker, the image of its pre-check.\n"
        "FROM template-builder/below:memory AS leaf\n"
    ) in text
    assert "useradd" not in text
    assert "requirements/uv.txt" not in text
    assert "export A=below" in text
    program = program_of(result)
    assert program.base_template == REF
    assert program.to_json()["base_template"] == REF
    assert [(step.kind, step.args) for step in program.steps[-2:]] == [
        ("WORKDIR", ("/home/user",)),
        ("USER", ("user",)),
    ]
    assert inputs_of(result)["base"] == {"from-template": f"below {REF}"}
    assert result.locked["idna"] == "3.1"


def test_template_that_was_not_built_here(tmp_path: Path) -> None:
    """Nothing is known of it: the Dockerfile adds the account and the installer, and the record has
    no base image."""
    result = rendered(tmp_path, parent=Parent(reference="x" * 20, target="e2b", ref="x" * 20))
    text = result.content("Dockerfile").decode()
    assert f"FROM template-builder/template-on-e2b:{'x' * 20} AS leaf\n" in text
    assert "useradd" in text
    assert "requirements/uv.txt" in text
    assert contents_of(result).base_image is None


def test_program_of_other_specs_has_no_template(tmp_path: Path) -> None:
    """A plan's JSON is as before for a spec on a base image."""
    other = load(tmp_path, other="schema = 1\nname = 'other'\n")["other"]
    assert "base_template" not in program_of(rendered_of(other)).to_json()


def test_committed_lock(tmp_path: Path) -> None:
    """The lock holds the build; it is stale once the spec or the target means another one, and not
    valid if its words could be more than that."""
    result = rendered(tmp_path, "[python]\npackages = ['six']\n")
    generated = tmp_path / "generated"
    write([result], generated, all_variants=True)
    assert committed_parent("leaf", generated) == PARENT
    assert read_committed([result.variant], generated) == {"leaf": result.lock}
    newer = dataclasses.replace(PARENT, ref="local:below@sha256-1", target="local")
    error = read_committed([dataclasses.replace(result.variant, parent=newer)], generated)["leaf"]
    assert isinstance(error, StaleLockError)
    assert error.message == (
        "the committed lock of `leaf` does not match its spec:\n"
        f"  `from-template`: below, {REF} on e2b → below, local:below@sha256-1 on local; `build`"
        " without `--frozen` locks it"
    )
    path = generated / "leaf" / "template.toml"
    path.write_text(path.read_text().replace('level = "memory"\n', 'level = "a\\nRUN b"\n'))
    error = read_committed([result.variant], generated)["leaf"]
    assert isinstance(error, TemplateError)
    assert error.message == (
        "generated/leaf/template.toml is not valid: `lock.parent.level` is 'a\\nRUN b'"
    )


def test_look_up(tmp_path: Path) -> None:
    """Without a target, the parent is looked up as an application does; the record is what the
    child inherits from."""
    variants = named(tmp_path, below="", leaf="below")
    result = rendered_of(variants["below"])
    ref = record.record(tmp_path / "registry.json", verified_of(result), result, by="x").build
    context = Context(project=Project.find(tmp_path))
    prepared = Prepared(request=BuildRequest(), variants=tuple(variants.values()))
    below, child = look_up_parents(prepared, context).variants
    assert below.parent is None
    assert child.parent == Parent(
        reference="below",
        target="local",
        ref=registry.resolve("below", path=tmp_path / "registry.json"),
        name="below",
        digest=result.digest,
        image=result.lock.image.pinned,
        python=">=3.11",
        packages={"idna": "1.0"},
        stages={stem: str(digest) for stem, digest in ref.stages.items()},
    )


def test_child_has_the_values_of_its_parent(tmp_path: Path) -> None:
    """A child has the variables that its parent was recorded with, each to the character; on E2B,
    where its parent's build holds them, it sends those alone that are its own."""
    service = "[service]\ncommand = ['serve']\nready-url = 'http://localhost:49999/health'\n"
    own = "schema = 1\nname = 'below'\n[env]\nODD = '$$HOME `id` \"x\" %s'\n"
    variants = load(tmp_path, below=own, leaf=f"{FROM}{service}[env]\nB = '$ODD/x'\n")
    result = rendered_of(variants["below"])
    record.record(tmp_path / "registry.json", verified_of(result), result, by="x")
    context = Context(project=Project.find(tmp_path))
    prepared = Prepared(request=BuildRequest(), variants=tuple(variants.values()))
    _, child = look_up_parents(prepared, context).variants
    assert child.env == {"ODD": '$$HOME `id` "x" %s', "B": '$$HOME `id` "x" %s/x'}
    (sent,) = [step for step in program_of(rendered_of(child)).steps if step.kind == "ENV"]
    assert sent.args == ("B", '${0:+$}HOME `id` "x" %s/x')
