"""How the read-out is fitted to a section: what was tried beside what `sagefm.tl.impute` does, by the donors it was chosen by.

The model must not have been trained on these donors; a third of the genes is hidden at a time, in three folds, at the
center alone. Rows multiply the rates of the null model by ratios:

    network    of the network, with its neighborhood
    slope      of the network to the power a, a in 0, 1/4, ..., 5/4 by the deviance of the other parts' spots
    decoder    of the network and of the ridge regression of `SectionDecoder` on what is named behind it: z (embedding),
               pc (scores on the section's components), around (their mean over the neighbors); spots of the part that
               is predicted take no part in a neighborhood that is fitted
    factors    of the Poisson factor model of the other parts' spots
    + factors  the geometric mean with it

python tests/benchmarks/readout.py MODEL_DIR --sections FOLDER
"""

from __future__ import annotations

import argparse
import logging
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _evaluation._sections import donor, list_sections, read_section
from anndata import AnnData
from scipy import sparse
from torch import Tensor
from torch.nn.functional import linear

from sagefm.checkpoint._resolve import resolve_model
from sagefm.data import _genes
from sagefm.data._genes import assign_folds
from sagefm.data._graph import averaging
from sagefm.data._reader import read_table
from sagefm.inference._readout import (
    N_PARTS,
    SectionDecoder,
    SectionFactors,
    draw_parts,
    draw_sample,
    section_components,
)
from sagefm.metrics import pooled_d2
from sagefm.metrics._recovery import Recovery
from sagefm.model import Checkpoint
from sagefm.module._reading import Batch, null_rates, root_center, size_factors

# Panels are among the donors.
_genes.MIN_COVERAGE = 0.0
DEV = ("her2st_B", "her2st_D", "RA1", "heart_CN73", "Br8325", "breast_tnbc_visium_396A", "melanoma_st_mel1_rep1")
DEV += ("liver_hcc1_2000genes",)
DETECTED, N_FOLDS = 0.1, 3
SLOPES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)


class Section:
    """A section, what a network reads of it, and its neighborhoods without the spots of a part."""

    def __init__(self, adata: AnnData, checkpoint: Checkpoint) -> None:
        self.network = checkpoint.network
        (self.inputs,) = read_table(adata, checkpoint.vocabulary).inputs(checkpoint.config)
        section = self.inputs.section
        self.counts = torch.from_numpy(section.counts.toarray())
        self.genes = torch.from_numpy(section.genes)
        self.totals = torch.from_numpy(section.gene_totals)[None]
        self.folds = assign_folds(section.genes, checkpoint.config.n_genes, N_FOLDS, 0)
        self.detected = np.asarray((self.counts > 0).float().mean(0)) >= DETECTED
        self.part = draw_parts(adata.obs_names, 0)
        self.some = draw_sample(adata.obs_names, 0)
        self.w_center, self.w_neighborhood, self.bias = self.network.first_layer(self.genes)
        self.product = torch.from_numpy(self.inputs.values @ self.w_neighborhood.numpy().T)
        self.factors = SectionFactors(self.part, self.some, self.counts[self.some], 0)

    @property
    def n_spots(self) -> int:
        return len(self.counts)

    def around(self, values: Tensor, without: int | None, *, relative: bool = False) -> Tensor:
        """Return means over the neighbors, and `relative` to the mean of the others, without the spots of a part."""
        kept = np.ones(self.n_spots) if without is None else (self.part != without).numpy().astype(float)
        neighbors = sparse.csr_matrix(self.inputs.section.neighbors @ sparse.diags_array(kept))
        neighbors.eliminate_zeros()
        found = averaging(neighbors, with_center=False) @ values.numpy()
        if relative:
            weighted = values.numpy() * kept[:, None]
            mean = (weighted.sum(axis=0) - weighted) / (kept.sum() - kept)[:, None]
            found = (found - mean) * (np.diff(neighbors.indptr) > 0)[:, None]
        return torch.from_numpy(found.astype(np.float32))


@dataclass
class Fold:
    """A fold of the genes, hidden at the center."""

    section: Section
    number: int

    def __post_init__(self) -> None:
        section = self.section
        self.hidden = torch.from_numpy(section.folds == self.number)[None]
        self.columns = np.flatnonzero((section.folds == self.number) & section.detected)
        batch = Batch(
            genes=section.genes,
            counts=section.counts,
            neighborhood=torch.empty(0),
            center_weight=torch.ones(1),
            gene_totals=section.totals,
        )
        visible = root_center(batch, self.hidden)
        self.center = linear(visible, section.w_center, section.bias)
        self.scores = linear(visible, section_components(visible[section.some]))
        self.x = section.counts[:, self.columns]
        rates = null_rates(section.counts, section.totals, self.hidden)
        self.null, self.depth = rates[:, self.columns], rates.sum(dim=1, keepdim=True)
        self.sizes = size_factors(section.counts, section.totals, self.hidden)

    @cached_property
    def factors(self) -> Tensor:
        section = self.section
        return section.factors.log_ratio(
            slice(0, section.n_spots), section.counts, self.depth, self.hidden, torch.from_numpy(self.columns)
        )

    def embedding(self, without: int | None) -> Tensor:
        section = self.section
        return section.network.encode(self.center + section.around(section.product, without, relative=True))

    def decode(self, z: Tensor) -> Tensor:
        return self.section.network.decode(z, self.section.genes[self.columns])

    def slope(self, log_ratio: Tensor, fitted: Tensor) -> float:
        """Return the power of a ratio that fits the counts of some spots best."""
        null, x, log_ratio = self.null[fitted], self.x[fitted], log_ratio[fitted]
        losses = [float((null * (a * log_ratio).exp() - x * a * log_ratio).sum()) for a in SLOPES]
        return SLOPES[int(np.argmin(losses))]

    def log_ratio(self, *, network: bool = True, slope: bool = False, features: tuple[str, ...] = ()) -> Tensor:
        """Return log rate ratios (n_spots, n_columns), each part's from a fit on the others."""
        section, found = self.section, torch.zeros_like(self.null)
        whole = self.embedding(None)
        of_whole = self.decode(whole)
        for part in range(N_PARTS):
            inside = section.part == part
            z = self.embedding(part)
            log_ratio = self.decode(z)
            a = 0.0 if not network else self.slope(log_ratio, ~inside) if slope else 1.0
            found[inside] = a * of_whole[inside]
            if features:
                around = section.around(self.scores, part), section.around(self.scores, None)
                pairs = {"z": (z, whole), "pc": (self.scores, self.scores), "around": around}
                fit, read = (torch.cat([pairs[name][i] for name in features], dim=1) for i in (0, 1))
                widths = tuple(pairs[name][0].shape[1] for name in features)
                decoder = SectionDecoder(section.part, widths, len(self.columns), fit.device)
                decoder.add(slice(0, section.n_spots), fit, self.x, self.sizes, (a * log_ratio).exp())
                found[inside] += decoder.log_ratio(slice(0, section.n_spots), read)[inside]
        return found


def rows(folds: list[Fold]) -> dict[str, list[Tensor]]:
    """Return log rate ratios of every setting and fold."""
    every = ("z", "pc", "around")
    alone = {
        "network": [fold.log_ratio() for fold in folds],
        "slope": [fold.log_ratio(slope=True) for fold in folds],
        "decoder on pc, no network": [fold.log_ratio(network=False, features=("pc",)) for fold in folds],
        "decoder on z, pc": [fold.log_ratio(features=("z", "pc")) for fold in folds],
        "decoder on z, pc, slope": [fold.log_ratio(slope=True, features=("z", "pc")) for fold in folds],
        "decoder on z, pc, around, slope": [fold.log_ratio(slope=True, features=every) for fold in folds],
    }
    factors = [fold.factors for fold in folds]
    mixed = {f"{name} + factors": [(a + b) / 2 for a, b in zip(alone[name], factors, strict=True)] for name in alone}
    return alone | {"factors": factors} | mixed


def score(section: Section, folds: list[Fold], log_ratios: list[Tensor]) -> tuple[float, float]:
    """Return the median r and pooled D2 of detected genes."""
    recovery = Recovery(len(section.genes))
    for fold, log_ratio in zip(folds, log_ratios, strict=True):
        predicted = fold.null * log_ratio.exp()
        recovery.update(fold.x.numpy(), predicted.numpy(), null=fold.null.numpy(), genes=fold.columns)
    recovery.add_spots(section.n_spots)
    table = recovery.result()
    table = table[section.detected & table["deviance"].notna()]
    return table["r"].median(), pooled_d2(table, DETECTED)


@torch.inference_mode()
def main() -> None:
    """Print the mean over donors of the means over their sections."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--sections", type=Path, required=True)
    parser.add_argument("--donors", nargs="*", default=DEV)
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    checkpoint, found = resolve_model(arguments.model), []
    for name, path in list_sections(arguments.sections).items():
        if donor(name) not in arguments.donors:
            continue
        section = Section(read_section(path), checkpoint)
        folds = [Fold(section, number) for number in range(N_FOLDS)]
        for setting, log_ratios in rows(folds).items():
            r, d2 = score(section, folds, log_ratios)
            found.append({"setting": setting, "donor": donor(name), "r": r, "D2": d2})
        print(name, flush=True)
    table = pd.DataFrame(found).groupby(["setting", "donor"], sort=False).mean()
    print(table["D2"].unstack().round(3).to_string())
    print(table.groupby(level="setting", sort=False).mean().round(4).to_string())


if __name__ == "__main__":
    main()
