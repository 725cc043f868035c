"""Pairs of source and target scored on a table: what ``sagefm.tl.perturb`` writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sagefm._progress import ProgressBar
from sagefm.data._table import untouched_on_error
from sagefm.inference._network import couple_pairs
from sagefm.inference._pairs import subunits
from sagefm.inference._perturb import perturb_source, prepare_section
from sagefm.inference._products import block_rows_of

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from sagefm.checkpoint._checkpoint import Checkpoint
    from sagefm.data._reader import TableReader
    from sagefm.inference._intervention import Intervention

#: In names of pairs, as liana and squidpy write them.
PAIR_SEPARATOR = "^"


@dataclass(frozen=True)
class Perturbation:
    """Scores, dose curves, effects by spot (n_spots, n_pairs) and by group of spots; units of levels and responses."""

    scores: pd.DataFrame
    curves: pd.DataFrame
    per_spot: pd.DataFrame
    groups: pd.DataFrame
    level_unit: str
    response_unit: str


def perturb_table(
    reader: TableReader,
    checkpoint: Checkpoint,
    pairs: pd.DataFrame,
    *,
    intervention: Intervention,
    labels: pd.Series | None = None,
    per_spot: bool = False,
    device: torch.device,
    batch_size: int | None = None,
    progress: bool = False,
) -> Perturbation:
    """Score checked pairs (:func:`check_pairs`) on a table; see :func:`sagefm.tl.perturb`.

    `labels` are the groups of the spots (n_spots,), missing for spots of none.
    """
    vocabulary, config = checkpoint.vocabulary, checkpoint.config
    network = checkpoint.network.to(device)
    block_rows = block_rows_of(batch_size)
    genes = {
        name: vocabulary.positions(subunits(name, vocabulary), argument="pairs")
        for name in pd.unique(pairs.to_numpy().ravel())
    }
    with untouched_on_error(reader.table):
        inputs = list(reader.inputs(config))
        spot_rows = np.concatenate([section.section.rows for section in inputs])
        sources, hidden = (
            np.unique(np.concatenate([genes[name] for name in pairs[role].unique()])) for role in ("source", "target")
        )
        sections = []
        with ProgressBar("perturb: read", len(inputs), "section", progress=progress) as bar:
            for section in inputs:
                sections.append(prepare_section(network, section, sources, hidden, device))
                bar.update()
        couplings = couple_pairs(reader, pairs, device=device)

    effects: dict[str, NDArray[np.float32]] = {}
    scores, curves, groups = [], [], []
    by_source = pairs.groupby("source", sort=False)
    with ProgressBar("perturb", by_source.ngroups, "source", progress=progress) as bar:
        for source, of_source in by_source:
            response = perturb_source(
                network,
                sections,
                genes[source],
                [genes[target] for target in of_source["target"]],
                intervention,
                device,
                block_rows=block_rows,
                per_spot=per_spot or labels is not None,
            )
            mean, low, high = response.curve
            columns = {"effect": mean[-1], "slope": _slope(response.levels, mean), "rho": response.rho}
            scores.append(of_source.assign(**columns))
            by_level = {"level": np.tile(response.levels, len(of_source))}
            by_level |= {name: values.T.ravel() for name, values in (("mean", mean), ("low", low), ("high", high))}
            curves.append(_repeat(of_source, len(response.levels)).assign(**by_level))
            if response.per_spot is not None:
                in_order = np.empty_like(response.per_spot)
                in_order[spot_rows] = response.per_spot
                if per_spot:
                    effects |= dict(zip(_names(of_source), in_order.T, strict=True))
                if labels is not None:
                    groups.append(_by_group(of_source, in_order, labels))
            bar.update()

    couplings = couplings.rename(columns={"effect": "coupling", "se": "coupling_se"})
    table = _in_order(scores).join(couplings[["coupling", "coupling_se", "pval", "qval"]].astype(np.float64))
    table["n_spots"] = len(spot_rows)
    relative = config.input == "relative"
    unit = f"log1p({config.scale:g} counts / total)" if relative else "log1p(counts)"
    return Perturbation(
        table,
        _in_order(curves),
        pd.DataFrame(effects, index=reader.table.obs_names, columns=_names(pairs) if per_spot else None),
        _in_order(groups) if groups else pd.DataFrame(),
        "times its counts" if intervention.scale == "fold" else unit,
        "log rate ratio" if relative else "log1p(counts)",
    )


def _slope(levels: NDArray[np.float32], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the change of mean predictions (n_levels, n_targets) per unit of level (n_targets,)."""
    if np.ptp(levels) == 0:
        return np.full(mean.shape[1], np.nan)
    slope: NDArray[np.float64] = np.polyfit(levels, mean, 1)[0]
    return slope


def _repeat(pairs: pd.DataFrame, n: int) -> pd.DataFrame:
    """Return each pair `n` times, one after the other."""
    return pairs.loc[pairs.index.repeat(n)]


def _in_order(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Join the rows of all sources, in the order that the pairs were given."""
    return pd.concat(tables).sort_index(kind="stable").reset_index(drop=True)


def _by_group(pairs: pd.DataFrame, effects: NDArray[np.float32], labels: pd.Series) -> pd.DataFrame:
    """Return the mean of effects (n_spots, n_pairs) over the spots of each group, pair by pair."""
    grouped = pd.DataFrame(effects, dtype=np.float64).groupby(labels.to_numpy())
    means, sizes = grouped.mean(), grouped.size()
    columns = {"effect": means.to_numpy().T.ravel(), "n_spots": np.tile(sizes, len(pairs))}
    return _repeat(pairs, len(sizes)).assign(group=np.tile(sizes.index, len(pairs)), **columns)


def _names(pairs: pd.DataFrame) -> pd.Series:
    return pairs["source"] + PAIR_SEPARATOR + pairs["target"]
