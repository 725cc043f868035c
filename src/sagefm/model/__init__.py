"""What a user holds: the model class, checkpoints, and their use on a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sagefm._lazy import lazy

if TYPE_CHECKING:
    from sagefm.checkpoint._authors import load_published
    from sagefm.checkpoint._checkpoint import Checkpoint, load_checkpoint
    from sagefm.checkpoint._hub import push_to_hub
    from sagefm.model._pretrain import pretrain
    from sagefm.model._sagefm import SAGEFM

__all__ = ["SAGEFM", "Checkpoint", "load_checkpoint", "load_published", "pretrain", "push_to_hub"]
# SAGEFM needs scvi-tools and Lightning; embedding with a checkpoint does not.
__getattr__, __dir__ = lazy(
    __name__,
    SAGEFM="sagefm.model._sagefm",
    Checkpoint="sagefm.checkpoint._checkpoint",
    load_checkpoint="sagefm.checkpoint._checkpoint",
    load_published="sagefm.checkpoint._authors",
    pretrain="sagefm.model._pretrain",
    push_to_hub="sagefm.checkpoint._hub",
)
