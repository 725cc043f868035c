"""What a user holds: the model class, checkpoints, and their use on a table."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sagefm.model._checkpoint import Checkpoint, load_checkpoint
    from sagefm.model._pretrain import pretrain
    from sagefm.model._published import load_published
    from sagefm.model._sagefm import SAGEFM

_MODULES = {
    "SAGEFM": "_sagefm",
    "Checkpoint": "_checkpoint",
    "load_checkpoint": "_checkpoint",
    "load_published": "_published",
    "pretrain": "_pretrain",
}
__all__ = ["SAGEFM", "Checkpoint", "load_checkpoint", "load_published", "pretrain"]


def __getattr__(name: str) -> object:
    # SAGEFM needs scvi-tools and Lightning; embedding with a checkpoint does not.
    if name in _MODULES:
        return getattr(import_module(f"sagefm.model.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'sagefm.model' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
