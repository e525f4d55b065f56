"""Reseed the random number generators in each copy of a warm interpreter.

A copy, made with `fork` or from the snapshot of a machine, starts with the state of all generators
in the original. `keep` finds the generators before copies are made, `reseed` gives each of them a
new seed in a copy. Images include this module, so it uses only the standard library and runs on
Python 3.9 and later.
"""

import contextlib
import gc
import hashlib
import os
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

__all__ = ["FAILS", "draws", "keep", "reseed", "reseed_at_first_execution"]

FAILS = "`warmup.reseed` fails in the sandbox"
_NAME = "_template_reseed"  # the name under which checks find this module
_CHUNK = 50_000
_kept: list[Any] = []


def keep() -> None:
    """Find every generator in the interpreter, to be reseeded in copies."""
    sys.modules.setdefault(_NAME, sys.modules[__name__])
    gc.unfreeze()  # frozen objects are not listed
    _kept[:] = _generators()


def reseed(folder: str) -> None:
    """Reseed every generator that was kept, then run `warmup_reseed.py` in `folder`, if it exists.

    Raise `RuntimeError` if that fails.
    """
    for generator in _kept:
        # A library may have changed the class; a check finds generators that were not reseeded.
        with contextlib.suppress(Exception):
            _kind(type(generator))[0](generator)
    ssl = sys.modules.get("_ssl")
    if ssl is not None:  # OpenSSL notices a fork, but not a copy of the machine
        ssl.RAND_add(os.urandom(32), 32.0)
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None:
        tensorflow.random.set_seed(_entropy() >> 449)
    path = os.path.join(folder, "warmup_reseed.py")
    if not os.path.exists(path):
        return
    try:
        with open(path, encoding="utf-8") as file:
            code = compile(file.read(), path, "exec")
        exec(code, {"__name__": "__main__"})  # noqa: S102
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
        raise RuntimeError(f"{FAILS}: {reason}") from error


def reseed_at_first_execution(shell: Any, folder: str) -> None:
    """Reseed when `shell`, an IPython, is about to run the first code of a caller.

    Code that the service runs itself, such as changing the working directory, is silent and may run
    before the snapshot. If reseeding fails, no other code is run.
    """

    def first(_info: Any = None) -> None:
        shell.events.unregister("pre_run_cell", first)
        try:
            reseed(folder)
        except RuntimeError as error:
            shell.ast_transformers.append(_refusing(str(error)))

    shell.events.register("pre_run_cell", first)


def draws() -> list[tuple[str, str]]:
    """Return (name, drawn value) of each kept generator, in the same order in every copy."""
    names = _names()
    drawn = []
    for generator in _kept:
        with contextlib.suppress(Exception):  # a generator that draws nothing is harmless
            value = str(_kind(type(generator))[1](generator))
            drawn.append((names.get(id(generator)) or f"a {_type_name(generator)}", value))
    return drawn


def _refusing(message: str) -> Any:
    from IPython.core.error import InputRejected

    class WarmupReseedError(InputRejected):
        """Reject the code, unlike other exceptions of a transformer."""

    class Refusing:
        def visit(self, _node: Any) -> Any:
            raise WarmupReseedError(message)

    return Refusing()


def _entropy() -> int:
    """Return 512 random bits, mixed with the clock since the whole machine may be a copy."""
    source = os.urandom(64) + f"{time.time_ns()} {os.getpid()}".encode()
    return int.from_bytes(hashlib.sha512(source).digest(), "big")


def _kind(cls: type) -> Any:
    """Return two functions that reseed and draw from a generator of a class; None for others.

    This checks the class, since `isinstance` would trigger lazy objects.
    """
    import _random

    if issubclass(cls, random.SystemRandom):
        return None
    if issubclass(cls, _random.Random):
        return _seed_random, lambda generator: generator.random()
    numpy = sys.modules.get("numpy.random")
    if numpy is not None and hasattr(numpy, "BitGenerator"):
        if issubclass(cls, numpy.BitGenerator):
            return _seed_bits, lambda generator: generator.random_raw()
        if issubclass(cls, (numpy.Generator, numpy.RandomState)):
            return _seed_numpy, lambda generator: generator.random()
        if issubclass(cls, numpy.SeedSequence):
            return _seed_sequence, lambda sequence: sequence.generate_state(2).tolist()
    torch = sys.modules.get("torch")
    torch_generator = getattr(torch, "Generator", None)
    if isinstance(torch_generator, type) and issubclass(cls, torch_generator):
        return _seed_torch, lambda generator: _draw_torch(torch, generator)
    return None


def _seed_random(generator: Any) -> None:
    try:
        generator.seed(_entropy())
    except Exception:  # noqa: BLE001 - a class with a `seed` of its own
        random.Random.seed(generator, _entropy())


def _seed_sequence(sequence: Any) -> None:
    sequence.__init__(_entropy())


def _seed_bits(bits: Any) -> None:
    sequence = getattr(bits, "seed_seq", None) or getattr(bits, "_seed_seq", None)
    with contextlib.suppress(Exception):
        _seed_sequence(sequence)  # for generators that it spawns
    fresh = type(bits)(_entropy())
    bits.state = fresh.state


def _seed_numpy(generator: Any) -> None:
    bits = getattr(generator, "bit_generator", None) or generator._bit_generator  # noqa: SLF001
    _seed_bits(bits)
    if hasattr(generator, "set_state"):  # a RandomState, which may hold half of a pair
        generator.set_state({**bits.state, "has_gauss": 0, "gauss": 0.0})


def _seed_torch(generator: Any) -> None:
    generator.manual_seed(_entropy() >> 449)


def _draw_torch(torch: Any, generator: Any) -> Any:
    return torch.randint(1 << 62, (1,), generator=generator, device=generator.device).item()


def _generators() -> list[Any]:
    """Return every generator that an object of the interpreter refers to, in a fixed order."""
    kinds: dict[type, bool] = {}
    generators: dict[int, Any] = {}
    objects = gc.get_objects()
    for start in range(0, len(objects), _CHUNK):
        # Objects that are not containers are only known from those that refer to them.
        for value in gc.get_referents(*objects[start : start + _CHUNK]):
            cls = type(value)
            is_kind = kinds.get(cls)
            if is_kind is None:
                is_kind = kinds[cls] = _kind(cls) is not None
            if is_kind:
                generators[id(value)] = value
    return list(generators.values())


def _names() -> Any:
    """Return `module.attribute`, or `module.attribute.attribute`, by the ID of a generator."""
    identities = {id(generator) for generator in _kept}
    names: dict[int, str] = {}

    def note(name: str, value: Any) -> None:
        if id(value) in identities:
            names.setdefault(id(value), name)

    for path, value in _attributes():
        note(path, value)
        for inner in _own(value).items():
            note(f"{path}.{inner[0]}", inner[1])
    return names


def _attributes() -> Iterator[tuple[str, Any]]:
    modules = [item for item in sys.modules.items() if item[0] not in (_NAME, __name__)]
    for name, module in modules:
        for key, value in list(_own(module).items()):
            # Modules are visited under their own names.
            if type(value) is not type(sys):
                yield f"{name}.{key}", value


def _own(value: Any) -> Any:
    """Return the attributes of an object or class itself."""
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except Exception:  # noqa: BLE001 - it has none
        return {}
    return attributes if hasattr(attributes, "items") else {}


def _type_name(generator: Any) -> str:
    return f"{type(generator).__module__}.{type(generator).__qualname__}"
