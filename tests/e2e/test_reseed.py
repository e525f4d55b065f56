"""What sandboxes that are copies of one warm interpreter draw at random."""

from __future__ import annotations

import asyncio
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from builder import render
from builder.errors import SandboxError, VerifyError
from builder.project import Project
from builder.runtime import CodeExecutionPrimitive
from tests.support.clouds import Place
from tests.support.here import put_module, results_of

pytestmark = [
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks sandboxes"),
]
BASE = (
    'schema = 1\nname = "light"\n[base]\nimage = "localhost:1/python:3.13"\npython = ">=3.11"\n'
    '[service]\ncommand = ["serve"]\nready-url = "http://localhost:49999/health"\n'
)
Light = Callable[..., Place]
ODD_RANDOM = """
import numpy, random, tempfile
class Slots:
    __slots__ = ('own',)
slots = Slots(); slots.own = random.Random(42)
def closure(own=random.Random(42)):
    inner = random.Random(42)
    return lambda: inner.random()
drawn = closure()
plain = random.Random(42)
plain.gauss(0, 1)
generator = numpy.random.default_rng(42)
state = numpy.random.RandomState(42)
state.standard_normal()
philox = numpy.random.Generator(numpy.random.Philox(42))
sequence = numpy.random.SeedSequence(42)
spawning = numpy.random.default_rng(42)
system = random.SystemRandom()
next(tempfile._get_candidate_names())
"""
# As much of PyTorch as finding its generators, seeding them and drawing from them takes.
TORCH = """
import random

class Generator:
    device = "cpu"
    def __init__(self):
        self.manual_seed(67280421310721)
    def manual_seed(self, seed):
        if not -(1 << 63) <= seed < 1 << 64:
            raise RuntimeError("Overflow when unpacking long")
        self._seed = seed
        self._state = random.Random(seed).getstate()
        return self
    def initial_seed(self):
        return self._seed

class Tensor:
    def __init__(self, value):
        self._value = value
    def item(self):
        return self._value

def randint(high, size, *, generator, device):
    assert (size, device) == ((1,), generator.device)
    source = random.Random()
    source.setstate(generator._state)
    value = source.randrange(high)
    generator._state = source.getstate()
    return Tensor(value)

default_generator = Generator()
own = [Generator()]

def manual_seed(seed):
    return default_generator.manual_seed(seed)

def initial_seed():
    return default_generator.initial_seed()
"""
MODULES = {"odd_random": ODD_RANDOM, "torch": TORCH}


def template(folder: Path, packages: str, imports: str, extra: str = "") -> Place:
    """Write a project of one variant, from its packages, its warm-up imports and further lines."""
    (folder / "variants").mkdir()
    (folder / "variants" / "light.toml").write_text(
        f"{BASE}[python]\npackages = [{packages}]\n"
        f'[warmup]\nlevel = "memory"\nimports = [{imports}]\n{extra}'
    )
    project = Project.find(folder)
    rendered = results_of(project)["light"]
    assert isinstance(rendered, render.Rendered), rendered
    render.write([rendered], project.generated, all_variants=True)
    return Place(folder)


@pytest.fixture
def light(tmp_path: Path, local_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Light:
    """Write the project of a test, whose registry is in force."""
    monkeypatch.setenv("TEMPLATE_REGISTRY", str(tmp_path / "registry.json"))
    return functools.partial(template, tmp_path)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The registry with a template that has generators of every kind."""
    place = template(tmp_path_factory.mktemp("drawing"), '"faker", "numpy"', '"faker", "numpy"')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEMPLATE_BUILDER_CACHE_DIR", str(cache))
        assert place.build("light", target="local")["light"].error is None
    path = place.folder / "registry.json"
    environment = cache / "environments" / place.recorded("light", "local")["build_id"]
    for name, text in MODULES.items():
        put_module(environment, name, text)
    names = "".join(f'"{name}", ' for name in MODULES)
    path.write_text(path.read_text().replace('"imports": [', f'"imports": [{names}'))
    return path


@pytest.fixture
def drawing(registry: Path, local_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry with that template is in force."""
    monkeypatch.setenv("TEMPLATE_REGISTRY", str(registry))


def printed(code: str, sandboxes: int = 2) -> list[str]:
    """What the code prints in sandboxes that are open at once."""

    async def run() -> list[str]:
        executors = [
            CodeExecutionPrimitive(template_id="light", target="local") for _ in range(sandboxes)
        ]
        try:
            results = [await executor.execute({"code": code}) for executor in executors]
        finally:
            for executor in executors:
                await executor.cleanup()
        assert [result["error"] for result in results] == [None] * sandboxes
        return [result["output"] for result in results]

    return asyncio.run(run())


@pytest.mark.usefixtures("drawing")
def test_names_made_up_by_faker_differ() -> None:
    """A library that made its generator while it was imported makes up other names in each
    sandbox."""
    code = "from faker import Faker; print(Faker().name(), Faker().name())"
    assert len(set(printed(code, 3))) > 1


@pytest.mark.usefixtures("drawing")
def test_every_kind_of_generator_is_reseeded() -> None:
    """Generators of `random` and NumPy draw other values in each sandbox, wherever they are kept
    and whatever they were seeded with."""
    code = (
        "import odd_random as odd, numpy, random, tempfile, json, uuid\n"
        "print(json.dumps({'slots': odd.slots.own.random(), 'closure': odd.drawn(),\n"
        "  'default': odd.closure.__defaults__[0].random(), 'plain': odd.plain.gauss(0, 1),\n"
        "  'generator': odd.generator.random(), 'state': odd.state.standard_normal(),\n"
        "  'philox': odd.philox.random(), 'sequence': odd.sequence.generate_state(1).tolist(),\n"
        "  'spawned': odd.spawning.spawn(1)[0].random(), 'system': odd.system.random(),\n"
        "  'random': random.random(), 'numpy': numpy.random.random(),\n"
        "  'temporary': next(tempfile._get_candidate_names()), 'uuid': str(uuid.uuid1())}))"
    )
    first, second = map(json.loads, printed(code))
    assert {name for name in first if first[name] == second[name]} == set()


@pytest.mark.usefixtures("drawing")
def test_generators_of_torch_are_reseeded() -> None:
    """PyTorch's default generator and those that modules keep have another seed in each sandbox,
    of which it takes all bits, and verification draws from them."""
    seen = printed(
        "import json, torch, sys\n"
        "print(json.dumps([torch.initial_seed(), torch.own[0].initial_seed(),"
        " sys.modules['_template_reseed'].draws()]))"
    )
    first, second = map(json.loads, seen)
    assert first[0] != second[0]
    assert first[1] != second[1]
    for seed, own, drawn in (first, second):
        assert len({seed, own, 67280421310721}) == 3
        assert {"torch.default_generator", "a torch.Generator"} <= {name for name, _ in drawn}
    assert not {tuple(pair) for pair in first[2]} & {tuple(pair) for pair in second[2]}


def test_own_code_runs_in_each_sandbox(
    light: Light, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`warmup.reseed` runs in each sandbox before any other code. If it fails, opening the sandbox
    fails with its name."""
    monkeypatch.setenv("TEMPLATE_ISOLATION", "none")  # the code looks for a file outside
    hinder = tmp_path / "hinder"
    place = light(
        '"idna"',
        '"idna"',
        f"reseed = '''\nimport idna, os\nidna.own = os.urandom(8).hex()\n"
        f"if os.path.exists({str(hinder)!r}):\n    idna.seed()\n'''\n",
    )
    assert place.build("light", target="local")["light"].error is None
    first, second = printed("import idna; print(idna.own, 'os' in globals())")
    assert first.endswith(" False\n")
    assert first != second
    hinder.touch()
    with pytest.raises(SandboxError) as caught:
        printed("print(1)")
    assert str(caught.value) == (
        "`warmup.reseed` fails in the sandbox: AttributeError: module 'idna' has no attribute"
        " 'seed'\n\nhint: correct `warmup.reseed`"
    )


def test_generators_that_stay_the_same_fail_verification(light: Light) -> None:
    """A build whose sandboxes would all draw the same from a generator is not recorded, and the
    generator is named."""
    place = light('"idna"', '"idna"', 'reseed = "import random; random.seed(1)"\n')
    error = place.build("light", target="local")["light"].error
    assert isinstance(error, VerifyError)
    assert (
        "  the random number generator `random._inst` draws the same numbers in every"
        " sandbox: reseed it in `warmup.reseed`"
    ) in error.message
    assert not (place.folder / "registry.json").exists()


def test_own_code_that_fails_is_told_by_the_build(light: Light) -> None:
    """A build whose `warmup.reseed` fails is not recorded, and the error says what failed."""
    place = light('"idna"', '"idna"', 'reseed = "import idna; idna.seed()"\n')
    error = place.build("light", target="local")["light"].error
    assert str(error) == (
        "`warmup.reseed` fails in the sandbox: AttributeError: module 'idna' has no attribute"
        " 'seed'\n\nhint: correct `warmup.reseed`"
    )
