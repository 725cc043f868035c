"""What a user holds: the model class, checkpoints, and their use on a table."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sagefm.checkpoint._authors import load_published
    from sagefm.checkpoint._checkpoint import Checkpoint, load_checkpoint
    from sagefm.checkpoint._hub import push_to_hub
    from sagefm.model._pretrain import pretrain
    from sagefm.model._sagefm import SAGEFM

_MODULES = {
    "SAGEFM": "sagefm.model._sagefm",
    "Checkpoint": "sagefm.checkpoint._checkpoint",
    "load_checkpoint": "sagefm.checkpoint._checkpoint",
    "load_published": "sagefm.checkpoint._authors",
    "pretrain": "sagefm.model._pretrain",
    "push_to_hub": "sagefm.checkpoint._hub",
}
__all__ = ["SAGEFM", "Checkpoint", "load_checkpoint", "load_published", "pretrain", "push_to_hub"]


def __getattr__(name: str) -> object:
    # SAGEFM needs scvi-tools and Lightning; embedding with a checkpoint does not.
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'sagefm.model' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
