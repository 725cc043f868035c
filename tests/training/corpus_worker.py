"""A process of training on a corpus: ``corpus_worker.py CORPUS OUT``, under torchrun."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from sagefm.datasets import Corpus
from sagefm.model import pretrain


def main() -> None:
    """Train; write which files were read, and what came out."""
    corpus, read = Corpus.from_folder(sys.argv[1]), []
    original = Corpus.read
    Corpus.read = lambda self, i: (read.append(self.names[i]), original(self, i))[1]
    small = {"hidden": (16, 8), "batch_size": 32, "accelerator": "cpu", "max_epochs": 2, "lr": 3e-3, "dropout": 0.0}
    model = pretrain(corpus, devices=2, strategy="ddp", **small)
    training = model.to_checkpoint().training
    result = {
        "read": read,
        "validation_sections": training["validation_sections"],
        "sections": training["sections"],
        "prior": model.module.prior.tolist(),
        "losses": model.history["train_loss"].iloc[:, 0].tolist(),
    }
    (Path(sys.argv[2]) / f"{os.environ['RANK']}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
