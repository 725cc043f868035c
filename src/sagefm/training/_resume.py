"""The state of training in a file, so that a run that was stopped goes on as if it had not been."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from safetensors import safe_open

from sagefm._replacing import replacing, try_file
from sagefm._tensor_files import tensors_sha256, write_tensors
from sagefm.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

#: 2: with a hash of everything in it.
_FORMAT = "sagefm training state 2"


class SaveState(Callback):
    """Write the state after every epoch, and take it up again at the start.

    One safetensors file: parameters, moments of the optimizer and parameters of the best epoch as tensors; schedule,
    early stopping, history and what must be the same in the next run as JSON in its header. Order, masks and dropout
    depend on seed, epoch and step alone, so that no generator is part of it. A file at `path` of another `run`, or one
    that was damaged, is refused.
    """

    def __init__(self, path: Path, run: dict[str, Any]) -> None:
        self.path = path
        # As it is read from JSON: tuples are lists.
        self.run: dict[str, Any] = json.loads(json.dumps(run))
        self.meta: dict[str, Any] | None = None
        if not path.exists():
            return
        self.meta = _read_state(path)
        before = self.meta["run"]
        differs = [f"{k}: {before.get(k)!r} there, {v!r} here" for k, v in self.run.items() if before.get(k) != v]
        if differs:
            raise CheckpointError(
                f"{path} is the state of another run ({'; '.join(differs)[:600]}). "
                f"Pass the same arguments, another state_file, or remove it."
            )

    @property
    def epochs(self) -> int:
        """Epochs that are done."""
        return 0 if self.meta is None else int(self.meta["epochs"])

    def kept(self) -> str:
        """Return what a user is told where training stops."""
        if self.meta is None:
            return f"The first epoch was not done: nothing is kept in {self.path}."
        return f"The state after {self.epochs} epochs is kept in {self.path}: give the same call again to go on."

    def attach(self, trainer: Any, network: torch.nn.Module) -> None:
        """Have the trainer of a network call this, and count its epochs from those that are done."""
        if self.meta is not None and self.epochs >= trainer.max_epochs:
            raise CheckpointError(
                f"{self.path} is the state after {self.epochs} epochs, and max_epochs={trainer.max_epochs}: pass more."
            )
        # Parameters, two moments of each, and those of the best epoch.
        n_parameters = sum(parameter.numel() for parameter in network.parameters())
        if trainer.is_global_zero:
            try_file(self.path, n_bytes=4 * n_parameters * torch.float32.itemsize)
        trainer.callbacks.append(self)
        progress = trainer.fit_loop.epoch_progress.current
        progress.processed = progress.completed = self.epochs

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Take up the state; raise where the processes do not see the same file."""
        epochs = torch.tensor(float(self.epochs), device=trainer.strategy.root_device)
        least, most = (float(trainer.strategy.reduce(epochs.clone(), reduce_op=op)) for op in ("min", "max"))
        if least != most:
            raise CheckpointError(
                f"The processes found states of {least:.0f} and of {most:.0f} epochs at {self.path}: expected one file "
                f"that all of them see, on a shared disk."
            )
        if self.meta is None:
            return
        parts: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
        with safe_open(self.path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 no dictionary
                part, name = key.rsplit("/", 1)
                # Copied: what is read may stay in the file, which the next epoch replaces.
                parts[part][name] = file.get_tensor(key).clone()
        pl_module.network.load_state_dict(parts["network"])
        moments = {int(part.split("/")[1]): values for part, values in parts.items() if part.startswith("optimizer/")}
        trainer.optimizers[0].load_state_dict({"state": moments, "param_groups": self.meta["param_groups"]})
        trainer.lr_scheduler_configs[0].scheduler.load_state_dict(self.meta["scheduler"])
        pl_module.logged.update(self.meta["logged"])
        if self.meta["best"] is not None:
            pl_module.best = (*self.meta["best"], parts["best"])
        if trainer.early_stopping_callback is not None and (stopping := self.meta["stopping"]) is not None:
            trainer.early_stopping_callback.wait_count = stopping["wait_count"]
            trainer.early_stopping_callback.best_score = torch.tensor(stopping["best_score"])

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Write the state: here the schedule, too, is done with the epoch before."""
        if not trainer.is_global_zero or trainer.current_epoch == self.epochs:
            return
        optimizer, stopping = trainer.optimizers[0].state_dict(), trainer.early_stopping_callback
        best = pl_module.best
        parts = {"network": pl_module.network.state_dict(), "best": best[2] if best else {}}
        parts |= {f"optimizer/{index}": moments for index, moments in optimizer["state"].items()}
        tensors = {
            f"{part}/{name}": torch.as_tensor(tensor).detach().contiguous().cpu()
            for part, values in parts.items()
            for name, tensor in values.items()
        }
        state = {
            "run": self.run,
            "epochs": trainer.current_epoch,
            "logged": pl_module.logged,
            "best": best and best[:2],
            "param_groups": optimizer["param_groups"],
            "scheduler": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
            "stopping": stopping and {"wait_count": stopping.wait_count, "best_score": float(stopping.best_score)},
        }
        text = json.dumps(state)
        header = {"format": _FORMAT, "state": text, "sha256": tensors_sha256(tensors.items(), text)}
        with replacing(self.path) as staged:
            write_tensors(tensors, staged, header)
        self.meta = state


def _read_state(path: Path) -> dict[str, Any]:
    """Return what the header of a state says, when the hash of all of it has been checked."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != _FORMAT:
                raise CheckpointError(
                    f"{path} is no state of training, or one of another version of sagefm; expected a file written by "
                    f"train(state_file=...)."
                )
            tensors = ((key, file.get_tensor(key)) for key in file.keys())  # noqa: SIM118 no dictionary
            if tensors_sha256(tensors, header["state"]) != header["sha256"]:
                raise CheckpointError(
                    f"{path} was damaged: its content does not have the hash that is in it. Get a copy of it from "
                    f"elsewhere, or remove it and start again."
                )
        meta: dict[str, Any] = json.loads(header["state"])
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as a state of training: {error}") from error
    return meta
