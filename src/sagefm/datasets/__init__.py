"""Sections to work on at once: two real ones that ship with the package, and a simulator with a known truth."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sagefm.datasets._bundled import dlpfc, synovium
    from sagefm.datasets._simulate import simulate

__all__ = ["dlpfc", "simulate", "synovium"]

_MODULES = {"dlpfc": "_bundled", "simulate": "_simulate", "synovium": "_bundled"}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f"sagefm.datasets.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'sagefm.datasets' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
