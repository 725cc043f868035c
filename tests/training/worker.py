"""A process of training: ``worker.py OUT DEVICES [KILL_AT]``; what the tests of several processes and of kills start."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

import sagefm
from sagefm.model import SAGEFM


class OneThread(Callback):
    """Sums are added in an order that depends on the number of threads, which other libraries change."""

    def on_fit_start(self, *_: Any) -> None:
        """Compute in one thread."""
        torch.set_num_threads(1)


class Kill(Callback):
    """End the process as if the power had gone, after some steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Count and kill."""
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def train(architecture: str, **kwargs: Any) -> SAGEFM:
    """Train a small model on five simulated sections."""
    change = kwargs.pop("change", "")
    adata = sagefm.datasets.simulate(60, n_genes=80, n_sections=5, rng=0)
    if change == "genes":
        adata.var_names = [f"OTHER{i}" for i in range(adata.n_vars)]
    elif change == "counts":
        adata.X[0, 0] += 1
    SAGEFM.setup_anndata(adata, library_key="library")
    hidden = (16, 8) if architecture == "default" else (16, 8, 8, 8, 8)
    model = SAGEFM(adata, architecture=architecture, hidden=hidden, dropout=kwargs.pop("dropout", 0.0))
    arguments = {"max_epochs": 4, "batch_size": 32, "lr": 3e-3, "accelerator": "cpu", "progress": False, **kwargs}
    arguments["callbacks"] = [OneThread(), *arguments.get("callbacks", [])]
    n_threads = torch.get_num_threads()
    try:
        model.train(**arguments)
    finally:
        torch.set_num_threads(n_threads)
    return model


def main() -> None:
    """Train, and write the history and the checkpoint."""
    folder, devices = Path(sys.argv[1]), int(sys.argv[2])
    if sys.argv[3:] == ["apart"]:
        state = folder / f"state{os.environ['RANK']}"
        train("published", devices=devices, strategy="ddp", state_file=state, max_epochs=3)
    elif devices > 1:
        for architecture in ("default", "published"):
            model = train(architecture, devices=devices, strategy="ddp")
            model.save(folder / architecture)
            if int(os.environ["RANK"]) == 0:
                losses = {name: frame.iloc[:, 0].tolist() for name, frame in model.history.items()}
                (folder / f"{architecture}.json").write_text(json.dumps(losses))
    else:
        train("default", dropout=0.3, state_file=folder / "state", callbacks=[Kill(int(sys.argv[3]))])


if __name__ == "__main__":
    main()
