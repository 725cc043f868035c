"""The network, what it reads of a spot, and its training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from _research.sections import SCALE

if TYPE_CHECKING:
    from typing import Any

    from _research.sections import Reading
    from _research.setting import Options

#: Counts of a spot of the average section, and where residuals are clipped.
AVERAGE_DEPTH, CLIP = 3000.0, 10.0
BATCH, EMA = 256, 0.995


@dataclass(frozen=True)
class Spots:
    """Spots as tensors: `counts` and `neighborhood` by spot, the others by spot or one for all."""

    counts: Tensor
    neighborhood: Tensor
    totals: Tensor
    measured: Tensor
    mean: Tensor
    n_spots: Tensor

    def expected(self, mask: Tensor) -> Tensor:
        """Share of each spot, by its visible counts, in what the other spots have of each gene."""
        shown = 1 - mask
        totals = (self.totals - self.counts + 1e-3) * self.measured
        visible = (self.counts * shown).sum(1, keepdim=True).clamp(min=1)
        return totals * (visible / (totals * shown).sum(1, keepdim=True).clamp(min=1e-3))

    def deviations(self, kind: str, mask: Tensor, expected: Tensor, average: Tensor) -> Tensor:
        """What the network reads of the visible counts; `average` is the profile of the training sections."""
        size = expected.sum(1, keepdim=True)
        if kind in ("log", "root"):
            scaled = self.counts * (SCALE / size)
            values = torch.log1p(scaled) if kind == "log" else torch.sqrt(scaled)
            others = (self.mean * self.n_spots - values) / (self.n_spots - 1)
            read = (values - others) * (1 if kind == "log" else torch.sqrt(size / SCALE))
        elif kind == "sqrt":
            read = 2 * (torch.sqrt(self.counts + 0.375) - torch.sqrt(expected + 0.375))
        elif kind == "nb":
            read = ((self.counts - expected) / _nb_deviation(expected)).clamp(-CLIP, CLIP)
        else:
            clipped = torch.minimum(self.counts, expected + CLIP * _nb_deviation(expected))
            weight = 1 / _nb_deviation(AVERAGE_DEPTH * average)
            read = (clipped - expected) * weight / torch.sqrt(size / AVERAGE_DEPTH)
        return read * (1 - mask)

    def depth(self, mask: Tensor) -> Tensor:
        """Log of the visible counts, and its square, about 1,100 counts."""
        depth = (self.counts * (1 - mask)).sum(1, keepdim=True).clamp(min=1).log() - 7
        return torch.cat([depth, depth**2 / 4], 1)


class Network(nn.Module):
    """Two layers and a read-out; all parts exist in every setting, so that a seed means the same in each."""

    def __init__(self, n_genes: int, n_neighborhood: int, options: Options) -> None:
        super().__init__()
        self.options, self.reads_neighborhood = options, n_neighborhood > 0
        self.center = nn.Linear(n_genes, options.hidden)
        self.neighborhood = nn.Linear(max(n_neighborhood, 1), options.hidden, bias=False)
        self.norm = nn.LayerNorm(options.hidden)
        self.latent = nn.Linear(options.hidden, options.latent)
        self.readout = nn.Linear(options.latent, n_genes)
        self.depth, self.gain = nn.Linear(2, options.hidden), nn.Linear(2, 1)
        for layer in (self.depth, self.gain, self.readout):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, center: Tensor, neighborhood: Tensor, depth: Tensor) -> Tensor:
        hidden = self.center(center)
        if self.reads_neighborhood:
            hidden = hidden + self.neighborhood(neighborhood)
        if self.options.depth:
            hidden = hidden + self.depth(depth)
        if self.options.norm:
            hidden = self.norm(hidden)
        latent = self.latent(torch.dropout(nn.functional.silu(hidden), self.options.dropout, self.training))
        return latent * torch.exp(self.gain(depth)) if self.options.depth else latent

    def weight_groups(self) -> list[dict[str, Any]]:
        """Parameters with and without weight decay."""
        named = list(self.named_parameters())
        free = [name.startswith(("norm", "gain", "depth")) or name.endswith("bias") for name, _ in named]
        return [
            {"params": [p for (_, p), f in zip(named, free, strict=True) if not f]},
            {"params": [p for (_, p), f in zip(named, free, strict=True) if f], "weight_decay": 0.0},
        ]


def train_network(readings: list[Reading], average: Tensor, options: Options) -> Network:
    """Return a trained network, with averaged weights."""
    sections = [reading.section for reading in readings]
    stack = lambda rows: torch.from_numpy(np.stack(rows))
    totals, measured = stack([s.totals for s in sections]), stack([s.measured for s in sections])
    mean, n_spots = stack([r.mean for r in readings]), torch.tensor([[float(s.n_spots)] for s in sections])
    counts = sparse.vstack([section.counts for section in sections]).tocsr()
    neighborhood = torch.from_numpy(np.concatenate([reading.neighborhood for reading in readings]))
    starts = np.cumsum([0] + [section.n_spots for section in sections])
    where = np.repeat(np.arange(len(sections)), [len(section.used) for section in sections])
    rows = np.concatenate([start + section.used for start, section in zip(starts, sections, strict=False)])

    torch.manual_seed(options.seed)
    network = Network(counts.shape[1], neighborhood.shape[1], options)
    n_batches = len(rows) // BATCH
    optimizer = torch.optim.AdamW(
        network.weight_groups(), lr=options.lr, betas=(0.9, 0.99), weight_decay=options.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.lr, total_steps=options.epochs * n_batches + 1, pct_start=0.1
    )
    averaged = {name: value.clone() for name, value in network.state_dict().items()}
    low, high = options.mask
    step = 0
    for epoch in range(options.epochs):
        order = np.random.default_rng([options.seed, epoch]).permutation(len(rows))
        for batch in order[: n_batches * BATCH].reshape(n_batches, BATCH):
            s, i = torch.from_numpy(where[batch]), rows[batch]
            x = torch.from_numpy(counts[i].toarray())
            spots = Spots(x, neighborhood[i], totals[s], measured[s], mean[s], n_spots[s])
            share = low + (high - low) * torch.rand(BATCH, 1)
            mask = (torch.rand(*x.shape) < share).float() * spots.measured
            expected = spots.expected(mask)
            center = spots.deviations(options.input, mask, expected, average)
            latent = network(center, spots.neighborhood, spots.depth(mask))
            if options.latent_dropout:
                latent = torch.dropout(latent, options.latent_dropout, True)
            log_factor = network.readout(latent)
            loss = ((expected * log_factor.exp() - x * log_factor) * mask).sum() / mask.sum()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            with torch.no_grad():
                for name, value in network.state_dict().items():
                    averaged[name].lerp_(value, 1 - min(EMA, step / (step + 10)))
    network.load_state_dict(averaged)
    return network.eval()


def _nb_deviation(mean: Tensor) -> Tensor:
    return torch.sqrt(mean + mean**2 + 1e-2)
