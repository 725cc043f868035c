"""Sections: two real ones that ship with the package, a simulator with a known truth, and corpora of files."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sagefm.data._corpus import Corpus
    from sagefm.datasets._bundled import dlpfc, synovium
    from sagefm.datasets._simulate import simulate

__all__ = ["Corpus", "dlpfc", "simulate", "synovium"]

_MODULES = {
    "Corpus": "sagefm.data._corpus",
    "dlpfc": "sagefm.datasets._bundled",
    "simulate": "sagefm.datasets._simulate",
    "synovium": "sagefm.datasets._bundled",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'sagefm.datasets' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
