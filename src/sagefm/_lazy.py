"""Names of a package whose modules are imported when one of them is first used."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module


def lazy(package: str, **modules: str) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package, from the module of each of its names."""

    def get(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(modules[name]), name)

    return get, lambda: sorted(modules)
