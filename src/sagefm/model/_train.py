"""Training a network on sections with Lightning."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping

from sagefm._arguments import whole_number
from sagefm._constants import PROFILE_PRIOR
from sagefm.data._corpus import split_spots
from sagefm.errors import ArgumentError
from sagefm.model._loader import SpotBatches, make_loader
from sagefm.model._plan import TrainingConfig, TrainingPlan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from sagefm.data._corpus import SectionInput
    from sagefm.module._center import CenterNeighborhoodNetwork
    from sagefm.module._pooled import PooledNetwork


@dataclass(frozen=True)
class Fit:
    """What came of training: losses by epoch, rows of the table that were trained and validated on, parameters."""

    frames: dict[str, pd.DataFrame]
    train_indices: NDArray[np.int64]
    validation_indices: NDArray[np.int64]
    training: dict[str, Any]


def fit(
    network: PooledNetwork | CenterNeighborhoodNetwork,
    inputs: Sequence[SectionInput],
    *,
    max_epochs: int,
    accelerator: str,
    devices: int | list[int] | str,
    batch_size: int,
    validation_size: float,
    mask_fraction: float | tuple[float, float] | None,
    lr: float | None,
    weight_decay: float | None,
    patience: int | None,
    seed: int,
    progress: bool,
    **trainer_kwargs: Any,
) -> Fit:
    """Train a network in place and leave it with the parameters of its best epoch; see ``SAGEFM.train``."""
    max_epochs = whole_number(max_epochs, name="max_epochs", minimum=1)
    batch_size = whole_number(batch_size, name="batch_size", minimum=1)
    training = TrainingConfig.of(network.config)
    given: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "mask_fraction": _as_range(mask_fraction)}
    training = replace(training, **{name: value for name, value in given.items() if value is not None})

    sections = [section.section for section in inputs]
    train_spots, validation_spots = split_spots(sections, validation_size, np.random.default_rng(seed))
    common = {"n_vocabulary": network.config.n_genes, "batch_size": batch_size}
    train = SpotBatches(inputs, train_spots, seed=seed, **common)
    has_validation = any(len(rows) for rows in validation_spots)
    validation = SpotBatches(inputs, validation_spots, seed=None, **common) if has_validation else None
    _set_prior(network, inputs)

    plan = TrainingPlan(network.train(), training, seed=seed)
    callbacks = list(trainer_kwargs.pop("callbacks", []))
    if patience is not None and validation is not None:
        callbacks.append(EarlyStopping("validation_loss", patience=patience))
    with _quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)  # dropout
        trainer = Trainer(
            max_epochs=max_epochs,
            accelerator=accelerator,
            devices=devices,
            callbacks=callbacks,
            **{
                "logger": False,
                "enable_checkpointing": False,
                "enable_model_summary": False,
                "enable_progress_bar": progress,
                "num_sanity_val_steps": 0,
                **trainer_kwargs,
            },
        )
        trainer.fit(plan, make_loader(train), None if validation is None else make_loader(validation))
    if plan.best is not None:
        network.load_state_dict(plan.best[2])
    network.cpu().eval()

    rows = [section.rows for section in sections]
    return Fit(
        {name: as_frame(name, values) for name, values in plan.logged.items()},
        np.concatenate([r[spots] for r, spots in zip(rows, train_spots, strict=True)]),
        np.concatenate([r[spots] for r, spots in zip(rows, validation_spots, strict=True)]),
        {
            **training.to_dict(),
            "max_epochs": max_epochs,
            "epochs": len(plan.logged["train_loss"]),
            "best_epoch": None if plan.best is None else plan.best[1],
            "batch_size": batch_size,
            "validation_size": validation_size,
            "validation_sections": [s.name for s, spots in zip(sections, validation_spots, strict=True) if len(spots)],
            "seed": seed,
            "n_sections": len(sections),
        },
    )


def as_frame(name: str, values: list[float]) -> pd.DataFrame:
    """Return a metric by epoch as scvi-tools keeps it in ``history``."""
    return pd.DataFrame({name: values}, index=pd.RangeIndex(len(values), name="epoch"))


def _as_range(fraction: float | tuple[float, float] | None) -> tuple[float, float] | None:
    if fraction is None:
        return None
    low, high = (fraction, fraction) if isinstance(fraction, int | float) else fraction
    if not 0 < low <= high <= 1:
        raise ArgumentError(f"mask_fraction={fraction!r}; expected a share above 0 and at most 1, or a range of such.")
    return float(low), float(high)


def _set_prior(network: PooledNetwork | CenterNeighborhoodNetwork, inputs: Sequence[SectionInput]) -> None:
    """Store the mean profile of the sections, each with the same weight, for genes that a later table lacks."""
    if not hasattr(network, "prior"):
        return
    prior = np.zeros(network.config.n_genes)
    for section in inputs:
        totals = section.section.gene_totals.astype(np.float64) + PROFILE_PRIOR
        prior[section.section.genes] += totals / totals.sum()
    network.prior = torch.from_numpy(np.maximum(prior / prior.sum(), 1e-9)).float()


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
            yield
    finally:
        lightning_logger.setLevel(level)
