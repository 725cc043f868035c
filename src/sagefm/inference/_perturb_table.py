"""Pairs of source and target scored on a table: what ``sagefm.tl.perturb`` writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from sagefm.data._table import untouched_on_error
from sagefm.inference._perturb import draw_null_genes, perturb_source, prepare_section, value_range
from sagefm.inference._products import block_rows_of
from sagefm.metrics._recovery import false_discovery

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from sagefm.checkpoint._checkpoint import Checkpoint
    from sagefm.data._genes import Vocabulary
    from sagefm.data._reader import TableReader

#: In names of pairs, as liana and squidpy write them.
PAIR_SEPARATOR = "^"


@dataclass(frozen=True)
class SourcePairs:
    """The pairs of one source, as symbols and vocabulary positions; null genes of each target, and all of them once."""

    pairs: pd.DataFrame
    source: int
    targets: NDArray[np.int64]
    drawn: list[NDArray[np.int64]]
    null: NDArray[np.int64]

    @classmethod
    def of(
        cls, pairs: pd.DataFrame, vocabulary: Vocabulary, gene_totals: NDArray[np.float64], n_null: int, rng: int
    ) -> Self:
        """Find the genes and draw the null."""
        source, *targets = (vocabulary.position[name] for name in [pairs["source"].iloc[0], *pairs["target"]])
        drawn = draw_null_genes(gene_totals, source, np.array(targets), n_null, rng)
        null = np.unique(np.concatenate(drawn)).astype(np.int64)
        return cls(pairs.reset_index(drop=True), source, np.array(targets), drawn, null)


@dataclass(frozen=True)
class Perturbation:
    """Perturbation scores, dose curves, and effects by spot (n_spots, n_pairs); units of levels and responses."""

    scores: pd.DataFrame
    curves: pd.DataFrame
    per_spot: pd.DataFrame
    level_unit: str
    response_unit: str


def perturb_table(
    reader: TableReader,
    checkpoint: Checkpoint,
    pairs: pd.DataFrame,
    *,
    levels: int = 5,
    n_null: int = 100,
    rng: int = 0,
    per_spot: bool = False,
    device: torch.device,
    batch_size: int | None = None,
    progress: bool = False,
) -> Perturbation:
    """Score checked pairs (:func:`check_pairs`) on a table; see :func:`sagefm.tl.perturb`."""
    vocabulary, config = checkpoint.vocabulary, checkpoint.config
    network = checkpoint.network.to(device)
    block_rows = block_rows_of(batch_size)
    with untouched_on_error(reader.table):
        inputs = list(reader.inputs(config))
        gene_totals = np.zeros(len(vocabulary))
        gene_totals[reader.match.genes] = sum(section.section.gene_totals.astype(np.float64) for section in inputs)
        spot_rows = np.concatenate([section.section.rows for section in inputs])
        groups = [
            SourcePairs.of(frame, vocabulary, gene_totals, n_null, rng)
            for _, frame in pairs.groupby("source", sort=False)
        ]
        sources = np.array([group.source for group in groups])
        hidden = np.unique(np.concatenate([np.concatenate([group.targets, group.null]) for group in groups]))
        sections = [prepare_section(network, section, sources, hidden, device) for section in inputs]

    effects: dict[str, NDArray[np.float32]] = {}
    scores, curves = [], []
    for group in tqdm(groups, desc="perturb", unit="source", disable=None if progress else True, leave=False):
        low, high = value_range(sections, group.source)
        dose = np.linspace(low, high, levels, dtype=np.float32)
        response = perturb_source(
            network,
            sections,
            group.source,
            group.targets,
            group.null,
            dose,
            device,
            block_rows=block_rows,
            per_spot=per_spot,
        )
        slope = np.polyfit(dose, response.curve[0], 1)[0] if high > low else np.full(len(group.targets), np.nan)
        null = [response.null[np.searchsorted(group.null, drawn)] for drawn in group.drawn]
        z, pval = np.transpose([_against_null(*pair) for pair in zip(response.effect, null, strict=True)])
        columns = {"effect": response.effect, "slope": slope, "rho": response.rho, "z": z, "pval": pval}
        scores.append(group.pairs.assign(**columns))
        pair_rows = np.repeat(np.arange(len(group.pairs)), levels)
        mean, lowest, highest = response.curve.transpose(0, 2, 1).reshape(3, -1)
        by_level = {"level": np.tile(dose, len(group.pairs)), "mean": mean, "low": lowest, "high": highest}
        curves.append(group.pairs.iloc[pair_rows].reset_index(drop=True).assign(**by_level))
        if response.per_spot is not None:
            in_order = np.empty_like(response.per_spot)
            in_order[spot_rows] = response.per_spot
            effects |= dict(zip(_names(group.pairs), in_order.T, strict=True))

    table = pd.concat(scores, ignore_index=True)
    table["qval"] = false_discovery(table["pval"].to_numpy())
    table["n_spots"] = len(spot_rows)
    # In the order the pairs were given, not that of the sources.
    table = pairs.merge(table, on=["source", "target"], how="left")
    relative = config.input == "relative"
    return Perturbation(
        table,
        pd.concat(curves, ignore_index=True),
        pd.DataFrame(effects, index=reader.table.obs_names, columns=_names(pairs) if per_spot else None),
        f"log1p({config.scale:g} counts / total)" if relative else "log1p(counts)",
        "log rate ratio" if relative else "log1p(counts)",
    )


def _names(pairs: pd.DataFrame) -> pd.Series:
    return pairs["source"] + PAIR_SEPARATOR + pairs["target"]


def _against_null(effect: float, null: NDArray[np.float64]) -> tuple[float, float]:
    """Return z and two-sided empirical p of an effect against the effects on its null genes."""
    if len(null) < 2:
        return np.nan, np.nan
    center, spread = null.mean(), null.std(ddof=1)
    z = (effect - center) / spread if spread > 0 else 0.0
    return z, (1 + (np.abs(null - center) >= abs(effect - center)).sum()) / (1 + len(null))
