"""Training a network on sections with Lightning."""

from __future__ import annotations

import hashlib
import logging
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping

from sagefm._arguments import whole_number
from sagefm.errors import ArgumentError
from sagefm.training._lightning import TrainingConfig, TrainingPlan
from sagefm.training._loader import SpotBatches
from sagefm.training._resume import SaveState
from sagefm.training._sections import split_spots

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from sagefm.module._center import CenterNeighborhoodNetwork
    from sagefm.module._pooled import PooledNetwork
    from sagefm.training._sections import Sections


@dataclass(frozen=True)
class Fit:
    """What came of training: losses by epoch, spots of each section that were trained and validated on, parameters.

    Of several processes that train together, the first ``saves``.
    """

    losses: dict[str, list[float]]
    train_spots: list[NDArray[np.int64]]
    validation_spots: list[NDArray[np.int64]]
    training: dict[str, Any]
    saves: bool


def fit(
    network: PooledNetwork | CenterNeighborhoodNetwork,
    sections: Sections,
    vocabulary: Sequence[str],
    *,
    max_epochs: int,
    accelerator: str = "auto",
    devices: int | list[int] | str = "auto",
    batch_size: int = 256,
    validation_size: float = 0.1,
    groups: Sequence[str] | None = None,
    mask_fraction: float | tuple[float, float] | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    schedule: str | None = None,
    patience: int | None = None,
    window: int | None = None,
    n_shards: int | None = None,
    state_file: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = False,
    **trainer_kwargs: Any,
) -> Fit:
    """Train a network in place and leave it with the parameters of its best epoch.

    See ``SAGEFM.train``; `groups` and `window` as in :func:`~sagefm.training._sections.split_spots` and
    :func:`~sagefm.training._order.plan_batches`.
    """
    max_epochs = whole_number(max_epochs, name="max_epochs", minimum=1)
    batch_size = whole_number(batch_size, name="batch_size", minimum=1)
    seed = whole_number(seed, name="seed", minimum=0)
    if schedule not in (None, "plateau", "cosine"):
        raise ArgumentError(f"schedule={schedule!r}; expected 'plateau' or 'cosine'.")
    if window is not None:
        window = whole_number(window, name="sections_in_memory", minimum=1)
    if devices == "auto" and not {"strategy", "num_nodes"} & set(trainer_kwargs):
        devices = 1
    training = TrainingConfig.of(network.config)
    given: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "schedule": schedule}
    given["mask_fraction"] = _as_range(mask_fraction)
    training = replace(training, **{name: value for name, value in given.items() if value is not None})
    train_spots, validation_spots = split_spots(sections, validation_size, np.random.default_rng(seed), groups)
    has_validation = any(len(rows) for rows in validation_spots)

    with _quiet(), torch.random.fork_rng():
        callbacks = list(trainer_kwargs.pop("callbacks", []))
        if patience is not None and has_validation:
            callbacks.append(EarlyStopping("validation_loss", patience=patience))
        options: dict[str, Any] = {
            "logger": False,
            "enable_checkpointing": False,
            "enable_model_summary": False,
            "enable_progress_bar": progress,
            "num_sanity_val_steps": 0,
            **trainer_kwargs,
        }
        trainer = Trainer(
            max_epochs=max_epochs, accelerator=accelerator, devices=devices, callbacks=callbacks, **options
        )
        # By name: Lightning does not export the class.
        if "_MultiProcessingLauncher" in (cls.__name__ for cls in type(trainer.strategy.launcher).__mro__):
            raise ArgumentError(
                f"strategy={options.get('strategy')!r} trains in processes that it starts, and what they learn would be "
                f"lost. Pass strategy='ddp' in a script, started by Python or torchrun, or devices=1 in a notebook."
            )
        shards = trainer.world_size if n_shards is None else whole_number(n_shards, name="n_shards", minimum=1)
        if shards % trainer.world_size:
            raise ArgumentError(f"n_shards={shards}; expected a multiple of the {trainer.world_size} processes.")
        make = partial(
            SpotBatches, n_vocabulary=network.config.n_genes, batch_size=batch_size, seed=seed, n_shards=shards
        )
        batches = [make(sections, train_spots, window=window)]
        if has_validation:
            batches.append(make(sections, validation_spots, shuffle=False))
        described = {
            **training.to_dict(),
            "batch_size": batch_size,
            "validation_size": validation_size,
            "validation_sections": [n for n, rows in zip(sections.names, validation_spots, strict=True) if len(rows)],
            "seed": seed,
            "n_shards": shards,
            "n_sections": len(sections.names),
        }
        if state_file is not None:
            run = {"network": network.config.to_dict(), **described, "window": window, "patience": patience}
            identity = {"vocabulary": _sha256("\n".join(vocabulary)), "data": sections.fingerprint()}
            SaveState(Path(state_file), {**run, **identity}).attach(trainer)
        plan = TrainingPlan(network.train(), training, *batches)
        trainer.fit(plan, batches[0], batches[1] if has_validation else None)
    if plan.best is not None:
        network.load_state_dict(plan.best[2])
    network.cpu().eval()
    found = {
        "max_epochs": max_epochs,
        "epochs": len(plan.logged["train_loss"]),
        "best_epoch": None if plan.best is None else plan.best[1],
    }
    return Fit(plan.logged, train_spots, validation_spots, {**described, **found}, trainer.is_global_zero)


def continued(training: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a training that went on from parameters with a record of their own, which it keeps."""
    if not before.get("is_trained", bool(before)):
        return training
    earlier = {name: value for name, value in before.items() if name != "before"}
    return {**training, "before": [*before.get("before", []), earlier]}


def as_frame(name: str, values: list[float]) -> pd.DataFrame:
    """Return a metric by epoch as scvi-tools keeps it in ``history``."""
    return pd.DataFrame({name: values}, index=pd.RangeIndex(len(values), name="epoch"))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _as_range(fraction: float | tuple[float, float] | None) -> tuple[float, float] | None:
    if fraction is None:
        return None
    low, high = (fraction, fraction) if isinstance(fraction, int | float) else fraction
    if not 0 < low <= high <= 1:
        raise ArgumentError(f"mask_fraction={fraction!r}; expected a share above 0 and at most 1, or a range of such.")
    return float(low), float(high)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out Lightning's notes on loaders and devices, which do not concern the user."""
    lightning_logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = lightning_logger.level
    lightning_logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")
            warnings.filterwarnings("ignore", message=".*fewer than the logging interval.*|.*log_every_n_steps.*")
            warnings.filterwarnings("ignore", message=".*`IterableDataset` has `__len__` defined.*")
            # Lightning 2.6 asks it of its loaders, and torch deprecated the question.
            warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\)", category=FutureWarning)
            yield
    finally:
        lightning_logger.setLevel(level)
