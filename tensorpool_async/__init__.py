"""An asyncio-native client for the TensorPool GPU cloud."""

from importlib import import_module
from typing import Any


def _read_public_names() -> dict[str, str]:
    """Return the module of each public name, from the lines `from MODULE import NAME as NAME` of `__init__.pyi`."""
    loader: Any = __spec__.loader  # a loader also reads from a zip file
    lines = loader.get_data(__file__.removesuffix("c").removesuffix(".py") + ".pyi").decode().splitlines()
    words = [line.split() for line in lines if line.startswith("from ")]
    return {name: module for _, module, _, name, *_ in words}


_MODULES = _read_public_names()
globals()["__all__"] = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    # A module is loaded when one of its names is first used: hardly any program needs all of them.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
