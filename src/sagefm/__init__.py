"""SAGE-FM for scverse: embeddings, imputation and in-silico perturbation of Visium sections."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sagefm import datasets, errors, io, metrics, model, pl, pp, tl
    from sagefm._report import report

# Gradients and products of tens of megabytes are allocated in every step: with huge pages, a page fault for each 2 MB
# of them and not for each 4 kB. torch reads this at its first allocation; Linux only.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__version__ = "0.2.0"
__all__ = ["__version__", "datasets", "errors", "io", "metrics", "model", "pl", "pp", "report", "tl"]


def __getattr__(name: str) -> object:
    # Subpackages are imported when first used: torch and anndata take seconds.
    if name == "report":  # a function: its package must not bear its name
        return import_module("sagefm._report").report
    if name in __all__:
        return import_module(f"sagefm.{name}")
    raise AttributeError(f"module 'sagefm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
