"""From what a user passes as ``model`` to a checkpoint."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from sagefm.errors import ArgumentError, ModelNotFoundError
from sagefm.model._checkpoint import Checkpoint, load_checkpoint
from sagefm.model._published import PUBLISHED_NAME, load_published


def resolve_model(model: Any) -> Checkpoint:
    """Return the checkpoint of a :class:`~sagefm.model.SAGEFM`, a :class:`Checkpoint`, a folder, or a name.

    Raises
    ------
    ModelNotFoundError
        The name is not known, or the folder does not exist.
    CheckpointError
        The published checkpoint is neither in the cache nor can it be downloaded.
    ArgumentError
        `model` is of another type.
    """
    if isinstance(model, Checkpoint):
        return model
    if hasattr(model, "to_checkpoint"):
        # SAGEFM, told by its method: importing the class takes seconds.
        checkpoint: Checkpoint = model.to_checkpoint()
        return checkpoint
    if not isinstance(model, str | os.PathLike):
        raise ArgumentError(f"Found model of type {type(model).__name__}; expected a SAGEFM, a folder, or a name.")
    if model == PUBLISHED_NAME:
        return load_published()
    bundled = Path(str(files("sagefm.model"))) / "checkpoints"
    if isinstance(model, str) and (bundled / model).is_dir():
        return load_checkpoint(bundled / model, name=model)
    if Path(model).exists():
        return load_checkpoint(model)
    raise ModelNotFoundError(
        f"Found no model {str(model)!r}: neither a folder, nor {PUBLISHED_NAME!r}, nor one of the bundled models "
        f"{_bundled(bundled)}. "
        f"Train one: sagefm.model.SAGEFM.setup_anndata(adata); model = sagefm.model.SAGEFM(adata); model.train(); "
        f"then pass model=model, or the folder of model.save(folder)."
    )


def _bundled(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
