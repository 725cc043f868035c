"""One progress bar for the whole of training; Lightning's own starts anew with each epoch."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, Trainer

from sagefm._progress import ProgressBar


class TrainingProgress(Callback):
    """Count batches, on a terminal or in a notebook; elsewhere, and in all processes but the first, show nothing."""

    bar: Any = None

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Show the bar, a resumed training's with the epochs that are done."""
        n_batches = int(trainer.num_training_batches)
        self.bar = ProgressBar(
            "train",
            (trainer.max_epochs or 0) * n_batches,
            "batch",
            initial=trainer.current_epoch * n_batches,
            progress=trainer.is_global_zero,
        )

    def on_train_batch_end(self, *_: Any) -> None:
        """Count a batch."""
        self.bar.update()

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        """Show the epoch and its loss."""
        metrics = trainer.callback_metrics
        loss = metrics.get("validation_loss", metrics.get("train_loss"))
        self.bar.set_postfix(epoch=trainer.current_epoch, loss="" if loss is None else f"{float(loss):.4f}")

    def teardown(self, *_: Any, **__: Any) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()

    #: After an error, Lightning calls no teardown.
    on_exception = teardown
