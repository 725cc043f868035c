"""How a network is trained: hidden genes, optimiser, schedule, and the best epoch kept."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule

from sagefm.module._losses import masked_deviance, masked_loss
from sagefm.module._reading import Batch

if TYPE_CHECKING:
    from torch import Tensor

    from sagefm.module._center import CenterNeighborhoodNetwork
    from sagefm.module._config import NetworkConfig
    from sagefm.module._pooled import PooledNetwork
    from sagefm.training._loader import SpotBatches


@dataclass(frozen=True)
class TrainingConfig:
    """Hyperparameters of training.

    Attributes
    ----------
    lr
        Learning rate of Adam.
    weight_decay
        Weight decay: of Adam (published: L2 in the gradient), decoupled (default).
    mask_fraction
        Range of each spot's share of hidden genes.
    schedule
        ``"plateau"``: the learning rate falls where the validation loss no longer does; ``"cosine"``: to zero at the last
        epoch.
    lr_factor
        Factor on the learning rate after `lr_patience` epochs without a better validation loss.
    lr_patience
        Epochs.
    """

    lr: float
    weight_decay: float
    mask_fraction: tuple[float, float]
    lr_factor: float
    lr_patience: int
    schedule: str = "plateau"

    @classmethod
    def of(cls, config: NetworkConfig) -> TrainingConfig:
        """Return the defaults of an architecture; those of the published one are the paper's."""
        if config.architecture == "published":
            return cls(lr=5e-5, weight_decay=1e-4, mask_fraction=(0.3, 0.3), lr_factor=0.9, lr_patience=5)
        return cls(lr=1e-3, weight_decay=1e-2, mask_fraction=(0.1, 0.7), lr_factor=0.5, lr_patience=4)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {**asdict(self), "mask_fraction": list(self.mask_fraction)}


class TrainingPlan(LightningModule):
    """Masked-gene training of a network.

    Parameters
    ----------
    network
        Network to train, in place.
    training
        Hyperparameters.
    batches
        Batches of training, and of validation if there is any: told their epoch, and the shards of this process.
    """

    def __init__(
        self,
        network: PooledNetwork | CenterNeighborhoodNetwork,
        training: TrainingConfig,
        *batches: SpotBatches,
    ) -> None:
        super().__init__()
        self.network = network
        self.training_config = training
        self.batches = batches
        self.logged: dict[str, list[float]] = {}
        self.best: tuple[float, int, dict[str, Tensor]] | None = None
        self._sums: dict[str, Tensor] = {}

    def configure_optimizers(self) -> Any:
        """Adam with the learning rate reduced on a plateau (Zhan et al. 2026), or along half a cosine."""
        published = self.network.config.architecture == "published"
        optimizer_class = torch.optim.Adam if published else torch.optim.AdamW
        config = self.training_config
        optimizer = optimizer_class(
            self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        if config.schedule == "cosine":
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs or 1)]
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=config.lr_factor, patience=config.lr_patience
        )
        has_validation = bool(self.trainer.val_dataloaders)
        monitor = "validation_loss" if has_validation else "train_loss"
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
        """Start the epoch's order and sums."""
        self.batches[0].epoch = self.current_epoch
        self._sums = {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch on freshly hidden genes."""
        # Dropout; the masks have generators of their own.
        torch.manual_seed(batch.seeds[0][1])
        mask = batch.draw_mask(self.training_config.mask_fraction)
        loss = masked_loss(self.network, batch, mask)
        hidden = mask.sum()
        self._add("train", loss=loss.detach() * hidden, hidden=hidden)
        if self.trainer.world_size == 1:
            return loss
        # Processes average their gradients: weighted, that is the mean over all that is hidden.
        mean_hidden = self.trainer.strategy.reduce(hidden.float(), reduce_op="mean")
        return loss * hidden / torch.as_tensor(mean_hidden).clamp(min=1)

    def on_train_epoch_end(self) -> None:
        """Record the epoch; without validation, its end is its best."""
        self._record("train")
        self._append("learning_rate", float(self.trainer.optimizers[0].param_groups[0]["lr"]))

    def on_validation_epoch_start(self) -> None:
        """Start the sums of validation, which interrupt those of training."""
        self._validation_sums, self._sums = self._sums, {}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add the loss of a held-out batch."""
        mask = batch.draw_mask(self.training_config.mask_fraction)
        loss, model, null = masked_deviance(self.network, batch, mask)
        self._add("validation", loss=loss * mask.sum(), hidden=mask.sum(), model=model, null=null)

    def on_validation_epoch_end(self) -> None:
        """Record the epoch and keep the parameters if it is the best so far."""
        if self.trainer.sanity_checking:
            return
        loss = self._record("validation")
        self._sums = self._validation_sums
        if self.best is None or loss < self.best[0]:
            state = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
            self.best = (loss, self.current_epoch, state)

    def _add(self, stage: str, **values: Tensor) -> None:
        # Sums stay on the device: reading one out would wait for it in every step. MPS has no float64.
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        for name, value in values.items():
            key = f"{stage}_{name}"
            self._sums[key] = self._sums.get(key, torch.zeros((), dtype=dtype, device=self.device)) + value

    def _record(self, stage: str) -> float:
        total = {name: self.trainer.strategy.reduce(value, reduce_op="sum") for name, value in self._sums.items()}
        sums = {name.removeprefix(f"{stage}_"): float(value) for name, value in total.items()}
        loss = sums["loss"] / max(sums["hidden"], 1)
        self._append(f"{stage}_loss", loss)
        if "null" in sums:
            self._append(f"{stage}_d2", 1 - sums["model"] / sums["null"] if sums["null"] > 0 else float("nan"))
        self.log(f"{stage}_loss", loss, prog_bar=True)
        return loss

    def _append(self, name: str, value: float) -> None:
        self.logged.setdefault(name, []).append(value)
