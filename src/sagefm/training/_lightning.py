"""Training with Lightning: hidden genes, optimizer, schedule, and the best epoch kept."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule

from sagefm.module._losses import masked_deviance, masked_loss
from sagefm.module._reading import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from sagefm.module._center import CenterNeighborhoodNetwork
    from sagefm.module._pooled import PooledNetwork
    from sagefm.training._config import TrainingConfig
    from sagefm.training._loader import SpotBatches


class TrainingPlan(LightningModule):
    """Masked-gene training of a network, in place, on batches of training and, if there are any, of validation.

    The epochs of order and masks are counted from `first_epoch`.
    """

    def __init__(
        self,
        network: PooledNetwork | CenterNeighborhoodNetwork,
        config: TrainingConfig,
        batches: Sequence[SpotBatches],
        first_epoch: int = 0,
    ) -> None:
        super().__init__()
        self.network, self.config, self.batches, self.first_epoch = network, config, batches, first_epoch
        self.logged: defaultdict[str, list[float]] = defaultdict(list)
        #: Validation loss, epoch and parameters.
        self.best: tuple[float, int, dict[str, Tensor]] | None = None
        #: Sums over the epoch, of training and of the validation that interrupts it.
        self._sums: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)

    def configure_optimizers(self) -> Any:
        """Adam with the learning rate reduced on a plateau (Zhan et al. 2026), or along half a cosine."""
        config, scheduling = self.config, torch.optim.lr_scheduler
        optimizer_class = torch.optim.AdamW if config.decoupled else torch.optim.Adam
        optimizer = optimizer_class(
            self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        if config.schedule == "cosine":
            return [optimizer], [scheduling.CosineAnnealingLR(optimizer, config.max_epochs)]
        scheduler = scheduling.ReduceLROnPlateau(optimizer, factor=config.lr_factor, patience=config.lr_patience)
        monitor = "validation_loss" if len(self.batches) > 1 else "train_loss"
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": monitor}}

    def setup(self, stage: str) -> None:
        """Choose the shards of this process, of several in turn, and where batches are made; find the training profile."""
        root = self.trainer.strategy.root_device
        for batches in self.batches:
            batches.own = range(self.trainer.global_rank, len(batches.shards), self.trainer.world_size)
            batches.device = root if root.type == "cuda" else torch.device("cpu")
        prior: Tensor | None = getattr(self.network, "prior", None)
        if prior is not None and stage == "fit":
            # The mean profile of the sections, for genes that a later table lacks.
            profile = torch.from_numpy(self.batches[0].profile())
            if self.trainer.world_size > 1:
                profile = torch.as_tensor(self.trainer.strategy.reduce(profile.to(root), reduce_op="sum"))
            prior.copy_((profile / profile.sum()).clamp(min=1e-9))

    def on_train_epoch_start(self) -> None:
        """Start the order of the epoch, and record its learning rate."""
        self.batches[0].epoch = self.first_epoch + self.current_epoch
        self.logged["learning_rate"].append(float(self.trainer.optimizers[0].param_groups[0]["lr"]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch on freshly hidden genes."""
        # Dropout; the masks have generators of their own.
        torch.manual_seed(batch.seeds[0][1])
        mask = batch.draw_mask(self.config.mask_fraction)
        loss = masked_loss(self.network, batch, mask)
        hidden = mask.sum()
        self._add("train", loss=loss.detach() * hidden, hidden=hidden)
        if self.trainer.world_size == 1:
            return loss
        # Processes average their gradients: weighted, that is the mean over all that is hidden.
        mean_hidden = self.trainer.strategy.reduce(hidden.float(), reduce_op="mean")
        return loss * hidden / torch.as_tensor(mean_hidden).clamp(min=1)

    def on_train_epoch_end(self) -> None:
        """Record the epoch."""
        self._record("train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add the loss of a held-out batch."""
        mask = batch.draw_mask(self.config.mask_fraction)
        loss, model, null = masked_deviance(self.network, batch, mask)
        self._add("validation", loss=loss * mask.sum(), hidden=mask.sum(), model=model, null=null)

    def on_validation_epoch_end(self) -> None:
        """Record the epoch and keep the parameters if it is the best so far."""
        if self.trainer.sanity_checking:
            self._sums.clear()
            return
        loss = self._record("validation")
        if self.best is None or loss < self.best[0]:
            state = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
            self.best = (loss, self.current_epoch, state)

    def _add(self, stage: str, **values: Tensor) -> None:
        # Sums stay on the device: reading one out would wait for it in every step. MPS has no float64.
        zero = torch.zeros((), dtype=torch.float32 if self.device.type == "mps" else torch.float64, device=self.device)
        sums = self._sums[stage]
        for name, value in values.items():
            sums[name] = sums.get(name, zero) + value

    def _record(self, stage: str) -> float:
        """Log the losses of an epoch, over all processes, and return its loss."""
        reduce = self.trainer.strategy.reduce
        sums = {name: float(reduce(value, reduce_op="sum")) for name, value in self._sums.pop(stage).items()}
        loss = sums["loss"] / max(sums["hidden"], 1)
        self.logged[f"{stage}_loss"].append(loss)
        if "null" in sums:
            d2 = 1 - sums["model"] / sums["null"] if sums["null"] > 0 else float("nan")
            self.logged[f"{stage}_d2"].append(d2)
        self.log(f"{stage}_loss", loss)
        return loss
