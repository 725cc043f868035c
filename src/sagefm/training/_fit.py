"""Training a network on sections with Lightning."""

from __future__ import annotations

import copy
import hashlib
import inspect
import logging
import signal
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.exceptions import SIGTERMException

from sagefm import __version__
from sagefm._arguments import as_path
from sagefm.errors import ArgumentError
from sagefm.training._lightning import TrainingPlan
from sagefm.training._loader import SpotBatches
from sagefm.training._progress import TrainingProgress
from sagefm.training._resume import SaveState
from sagefm.training._sections import split_spots

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from sagefm.module._center import CenterNeighborhoodNetwork
    from sagefm.module._pooled import PooledNetwork
    from sagefm.training._config import TrainingConfig
    from sagefm.training._sections import Sections

    Network = PooledNetwork | CenterNeighborhoodNetwork

logger = logging.getLogger(__name__)

#: What Lightning warns of.
_NOTES: Final = (
    "does not have many workers",
    "have no `val_dataloader`",
    "fewer than the logging interval",
    "log_every_n_steps",
    "`IterableDataset` has `__len__` defined",
    # Lightning 2.6 asks it of its loaders, and torch deprecated the question.
    r"isinstance\(treespec, LeafSpec\)",
)


@dataclass(frozen=True)
class Fit:
    """Result of training: the network, its losses by epoch, held-out spots of each section, and the record of it all.

    Of several processes that train together, the first ``saves``.
    """

    network: Network
    losses: dict[str, list[float]]
    validation_spots: list[NDArray[np.int64]]
    record: dict[str, Any]
    saves: bool


def fit(
    network: Network,
    sections: Sections,
    vocabulary: Sequence[str],
    config: TrainingConfig,
    *,
    groups: Sequence[str] | None = None,
    before: dict[str, Any] | None = None,
    state_file: str | os.PathLike[str] | None = None,
    progress: bool = True,
    trainer_arguments: dict[str, Any] | None = None,
) -> Fit:
    """Train a copy of a network; it gets the parameters of its best epoch.

    `before` is the record of the training that made the network: epochs, and with them order and masks, go on from its
    last. `groups` as in :func:`~sagefm.training._sections.split_spots`, the rest as in
    :meth:`sagefm.model.SAGEFM.train`.
    """
    network = copy.deepcopy(network).train()
    earlier = _earlier_records(before or {})
    first_epoch = sum(record.get("epochs", 0) for record in earlier)
    rng = np.random.default_rng(config.seed)
    train_spots, validation_spots = split_spots(sections, config.validation_size, rng, groups)
    n_train = sum(map(len, train_spots))
    if (config.n_shards or 1) > n_train:
        raise ArgumentError(f"n_shards={config.n_shards}; expected at most {n_train:,}, the spots that are trained on.")
    held_out = [name for name, rows in zip(sections.names, validation_spots, strict=True) if len(rows)]
    with _quiet():
        trainer = _make_trainer(config, trainer_arguments or {}, has_validation=bool(held_out), progress=progress)
        n_shards = config.n_shards or trainer.world_size
        if n_shards % trainer.world_size:
            raise ArgumentError(f"n_shards={n_shards}; expected a multiple of the {trainer.world_size} processes.")
        make = partial(
            SpotBatches,
            sections,
            n_vocabulary=network.config.n_genes,
            batch_size=config.batch_size,
            seed=config.seed,
            n_shards=n_shards,
        )
        batches = [make(train_spots, window=config.sections_in_memory)]
        if held_out:
            batches.append(make(validation_spots, shuffle=False))
        record = {
            **config.to_dict(),
            "n_shards": n_shards,
            "n_spots": int(sections.sizes.sum()),
            "n_sections": len(sections.names),
            "validation_sections": held_out,
        }
        state = None
        if state_file is not None:
            run = network.config.to_dict() | record
            run |= {"first_epoch": first_epoch, "data": sections.fingerprint()}
            run["vocabulary"] = hashlib.sha256("\n".join(vocabulary).encode()).hexdigest()
            if config.schedule == "plateau":
                # More epochs may be added, but not to a cosine, which ends with the last.
                del run["max_epochs"]
            state = SaveState(as_path(state_file, name="state_file"), run)
            state.attach(trainer, network)
        plan = TrainingPlan(network, config, batches, first_epoch)
        device = trainer.strategy.root_device
        generators = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        with _signals_as_python_has_them(trainer, state), generators:
            trainer.fit(plan, batches[0], batches[1] if held_out else None)
    record |= {"epochs": len(plan.logged["train_loss"]), "best_epoch": None}
    if plan.best is not None:
        _, record["best_epoch"], parameters = plan.best
        network.load_state_dict(parameters)
    record |= {"is_trained": True, "sagefm_version": __version__}
    if earlier:
        record["before"] = earlier
    return Fit(network.cpu().eval(), dict(plan.logged), validation_spots, record, trainer.is_global_zero)


def check_trainer_arguments(names: Iterable[str]) -> None:
    """Raise unless Lightning's Trainer has arguments of all these names."""
    unknown = sorted(set(names) - set(inspect.signature(Trainer).parameters))
    if unknown:
        hint = " The seed is called rng." if "seed" in unknown else ""
        raise ArgumentError(f"Training has no argument {', '.join(unknown)}, nor has lightning.pytorch.Trainer.{hint}")


def _make_trainer(
    config: TrainingConfig, arguments: dict[str, Any], *, has_validation: bool, progress: bool
) -> Trainer:
    check_trainer_arguments(arguments)
    arguments = {
        "devices": "auto",
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "num_sanity_val_steps": 0,
        **arguments,
    }
    if arguments["devices"] == "auto" and not {"strategy", "num_nodes"} & set(arguments):
        arguments["devices"] = 1
    callbacks = arguments.pop("callbacks", None) or []
    callbacks = [callbacks] if isinstance(callbacks, Callback) else list(callbacks)
    if config.patience is not None and has_validation:
        callbacks.append(EarlyStopping("validation_loss", patience=config.patience))
    if progress:
        callbacks.append(TrainingProgress())
    trainer = Trainer(max_epochs=config.max_epochs, callbacks=callbacks, **arguments)
    # By name: Lightning does not export the class.
    if "_MultiProcessingLauncher" in (cls.__name__ for cls in type(trainer.strategy.launcher).__mro__):
        raise ArgumentError(
            f"strategy={arguments.get('strategy')!r} trains in processes that it starts, and what they learn would be "
            f"lost. Pass strategy='ddp' in a script, started by Python or torchrun, or devices=1 in a notebook."
        )
    return trainer


def _earlier_records(before: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the records of all trainings that led to a network, the first one first."""
    if not before.get("is_trained", bool(before)):
        return []
    return [*before.get("before", []), {name: value for name, value in before.items() if name != "before"}]


@contextmanager
def _signals_as_python_has_them(trainer: Trainer, state: SaveState | None) -> Iterator[None]:
    """Raise KeyboardInterrupt for SIGINT, where Lightning exits, and exit with 143 for SIGTERM, not 0; say what is kept."""
    kept = lambda: "Without a state_file nothing of this training is kept." if state is None else state.kept()
    try:
        yield
        # In the last step: Lightning looks for it before each.
        if trainer.received_sigterm:
            raise SIGTERMException
    except SIGTERMException:
        logger.warning("Training was stopped by SIGTERM. %s", kept())
        raise SystemExit(128 + signal.SIGTERM) from None
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        error.__context__.add_note(kept())
        raise error.__context__ from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out Lightning's notes on loaders and devices, which do not concern the user."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=f".*({'|'.join(_NOTES)})")
            yield
    finally:
        logger.setLevel(level)
