"""From what a user passes as ``model`` or ``device`` to a checkpoint or a device."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from sagefm._arguments import shown
from sagefm.checkpoint._authors import PUBLISHED_NAME, load_published
from sagefm.checkpoint._checkpoint import Checkpoint, exists, load_checkpoint
from sagefm.checkpoint._hub import hub_name, load_from_hub
from sagefm.errors import ArgumentError, CheckpointError, ModelNotFoundError


def resolve_model(model: Any, *, revision: str | None = None, sha256: str | None = None) -> Checkpoint:
    """Return the checkpoint that a user's `model` stands for.

    Parameters
    ----------
    model
        A :class:`~sagefm.model.SAGEFM`, a :class:`Checkpoint`, a folder, or a name: that of a bundled model,
        ``"published"``, or ``"organization/name"`` on the Hugging Face Hub. A folder comes before a name on the Hub.
    revision
        The same as ``@revision`` at the end of a name on the Hub.
    sha256
        Hash that the stored parameters must have.
    """
    if revision is not None:
        if hub_name(model) is None:
            raise ArgumentError(
                f"revision={revision!r} works for models on the Hugging Face Hub only, 'organization/name'; "
                f"found model={model!r}."
            )
        model = f"{model}@{revision}"
    checkpoint = _resolve(model)
    if sha256 is not None and checkpoint.sha256 != str(sha256).lower():
        raise CheckpointError(
            f"The parameters of {checkpoint.name} have the sha256 {checkpoint.sha256!r}; expected {sha256!r}. "
            f"Pass the revision that has it, or leave out sha256=... if this is the model you want."
        )
    return checkpoint


def _resolve(model: Any) -> Checkpoint:
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
    bundled = _bundled()
    # A name is a str that equals it: "./default" and Path("default") are paths of the user's.
    if isinstance(model, str) and model in bundled:
        return load_checkpoint(bundled[model], name=model)
    if exists(model):
        return load_checkpoint(model)
    if name := hub_name(model):
        return load_from_hub(*name)
    raise ModelNotFoundError(
        f"Found no model {shown(model)}: neither a folder, nor {PUBLISHED_NAME!r}, nor one of the bundled models "
        f"{sorted(bundled)}, nor 'organization/name' of the Hugging Face Hub. "
        f"Train one: sagefm.model.SAGEFM.setup_anndata(adata); model = sagefm.model.SAGEFM(adata); model.train(); "
        f"then pass model=model, or the folder of model.save(folder)."
    )


def _bundled() -> dict[str, Path]:
    """Return the folders of the models that come with the package, by name."""
    weights = Path(str(files("sagefm.checkpoint"))) / "weights"
    return {folder.name: folder for folder in weights.iterdir() if folder.is_dir()}


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device to compute on; ``"auto"`` is the first GPU, or the CPU where there is none."""
    if not isinstance(device, str | int | torch.device):
        raise ArgumentError(f"device={shown(device)} cannot be used here; pass 'auto' or 'cpu'.")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved).cpu()
    # All are torch's, by device: unknown, not compiled in, without its package, of another type, no number of one.
    except (RuntimeError, AssertionError, ImportError, TypeError, ValueError) as error:
        raise ArgumentError(f"device={shown(device)} cannot be used here; pass 'auto' or 'cpu'. ({error})") from error
    return resolved
