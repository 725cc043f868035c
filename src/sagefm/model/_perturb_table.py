"""Pairs of source and target scored on a table: what ``sagefm.tl.perturb`` writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats
from tqdm.auto import tqdm

from sagefm._arguments import whole_number
from sagefm.data._genes import to_symbols
from sagefm.errors import ArgumentError, GenesError, MissingKeyError
from sagefm.model._embedding import block_rows_of
from sagefm.model._impute_table import listed
from sagefm.model._perturbation import draw_null_genes, perturb_source, prepare_section, value_range

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    import torch
    from numpy.typing import NDArray

    from sagefm.data._genes import Vocabulary
    from sagefm.model._checkpoint import Checkpoint
    from sagefm.model._inputs import TableReader

#: Pair name in ``obsm["sagefm_perturb"]``, as liana and squidpy write it.
PAIR_SEPARATOR = "^"


@dataclass(frozen=True)
class Perturbation:
    """Perturbation scores, dose curves, and effects by spot (n_spots, n_pairs); units of levels and responses."""

    scores: pd.DataFrame
    curves: pd.DataFrame
    per_spot: pd.DataFrame
    level_unit: str
    response_unit: str


def check_pairs(
    reader: TableReader,
    checkpoint: Checkpoint,
    pairs: pd.DataFrame | None,
    sources: Sequence[str] | None,
    targets: Sequence[str] | None,
    levels: int,
    n_null: int,
    rng: int,
) -> pd.DataFrame:
    """Return pairs as symbols [source, target], each once; raise for pairs that cannot be scored."""
    whole_number(levels, name="levels", minimum=2)
    whole_number(n_null, name="n_null", minimum=0)
    whole_number(rng, name="rng", minimum=0)
    as_lists = sources is not None or targets is not None
    if (pairs is None) != as_lists or (as_lists and (sources is None or targets is None)):
        raise ArgumentError("Pass either pairs=DataFrame[source, target], or both sources= and targets=.")
    if pairs is None:
        lists = [listed(sources, argument="sources"), listed(targets, argument="targets")]
        grid = pd.MultiIndex.from_product(lists, names=["source", "target"])
        pairs = grid.to_frame(index=False)
        pairs = pairs[pairs["source"] != pairs["target"]]
    elif not isinstance(pairs, pd.DataFrame):
        raise ArgumentError(f"pairs is a {type(pairs).__name__}; expected a DataFrame with columns source and target.")
    else:
        missing = [name for name in ("source", "target") if name not in pairs]
        if missing:
            raise MissingKeyError(f"pairs has no column {missing}; found {list(pairs.columns)}.")
        pairs = pairs[["source", "target"]]
    if pairs.empty:
        raise ArgumentError("No pair to score: expected at least one source and a target other than it.")
    if pairs.isna().any(axis=None):
        raise ArgumentError("pairs has missing values; expected a gene name in each row: pairs.dropna()")
    argument = "pairs" if sources is None else "sources / targets"
    names = [to_symbols(pd.Index(pairs[column].astype(str))) for column in ("source", "target")]
    pairs = pd.DataFrame({"source": names[0], "target": names[1]}).drop_duplicates(ignore_index=True)
    same = pairs["source"] == pairs["target"]
    if same.any():
        raise ArgumentError(
            f"{int(same.sum())} pairs have a target equal to the source, e.g. {pairs['source'][same].iloc[0]!r}; "
            f"expected two genes: pairs[pairs['source'] != pairs['target']]"
        )
    checkpoint.vocabulary.positions(pd.unique(pairs.to_numpy().ravel()).tolist(), argument=argument)
    sources_at = checkpoint.vocabulary.positions(pairs["source"].tolist(), argument=argument)
    unmeasured = ~np.isin(sources_at, reader.match.genes)
    if unmeasured.any():
        missing = pairs["source"][unmeasured].unique().tolist()
        raise GenesError(
            f"Sources that were not measured in this table: {missing[:5]} ({len(missing)} in all). "
            f"There are no levels to set them to: leave them out."
        )
    return pairs


@dataclass(frozen=True)
class SourcePairs:
    """The pairs of one source.

    Attributes
    ----------
    pairs
        Symbols [source, target], a row a pair.
    source, targets
        Vocabulary positions.
    drawn
        Null genes of each target, see :func:`~sagefm.model._perturbation.draw_null_genes`.
    null
        All of them, once, increasing (n_null,).
    """

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

    @property
    def genes(self) -> NDArray[np.int64]:
        """All genes that are set, read or hidden, as vocabulary positions."""
        return np.concatenate([[self.source], self.targets, self.null])


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
    with reader.untouched_on_error():
        inputs = reader.inputs(config)
        gene_totals = np.zeros(len(vocabulary))
        gene_totals[reader.match.genes] = sum(section.section.gene_totals.astype(np.float64) for section in inputs)
        spot_rows = np.concatenate([section.section.rows for section in inputs])
        groups = [
            SourcePairs.of(frame, vocabulary, gene_totals, n_null, rng)
            for _, frame in pairs.groupby("source", sort=False)
        ]
        needed = np.unique(np.concatenate([group.genes for group in groups]))
        sections = [prepare_section(network, section, needed, device) for section in inputs]

    effects: dict[str, NDArray[np.float32]] = {}
    scores, curves = [], []
    for group in tqdm(groups, desc="perturb", unit="source", disable=None if progress else True, leave=False):
        low, high = value_range(sections, group.source)
        dose = np.linspace(low, high, levels, dtype=np.float32)
        response = perturb_source(network, sections, group.source, group.targets, group.null, dose, device, block_rows)
        mean = response.curve[0]
        effect = mean[-1]
        slope = np.polyfit(dose, mean, 1)[0] if high > low else np.full(len(group.targets), np.nan)
        z, pval = _against_null(effect, [response.null[np.searchsorted(group.null, drawn)] for drawn in group.drawn])
        columns = {"effect": effect, "slope": slope, "rho": response.rho, "z": z, "pval": pval}
        scores.append(group.pairs.assign(**columns))
        at = np.repeat(np.arange(len(group.pairs)), levels)
        mean, lowest, highest = response.curve.transpose(0, 2, 1).reshape(3, -1)
        by_level = {"level": np.tile(dose, len(group.pairs)), "mean": mean, "low": lowest, "high": highest}
        curves.append(group.pairs.iloc[at].reset_index(drop=True).assign(**by_level))
        if per_spot:
            effect_at = np.empty_like(response.effect)
            effect_at[spot_rows] = response.effect
            effects |= dict(zip(_names(group.pairs), effect_at.T, strict=True))

    table = pd.concat(scores, ignore_index=True)
    table["qval"] = np.nan
    known = table["pval"].notna()
    if known.any():
        table.loc[known, "qval"] = stats.false_discovery_control(table.loc[known, "pval"])
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


def _against_null(effect: NDArray[np.float64], null: list[NDArray[np.float64]]) -> tuple[list[float], list[float]]:
    """Return z and two-sided empirical p of each effect against the effects on its null genes."""
    zs, ps = [], []
    for value, drawn in zip(effect, null, strict=True):
        if len(drawn) < 2:
            zs.append(np.nan)
            ps.append(np.nan)
            continue
        center, spread = drawn.mean(), drawn.std(ddof=1)
        zs.append(float((value - center) / spread) if spread > 0 else 0.0)
        ps.append(float((1 + (np.abs(drawn - center) >= abs(value - center)).sum()) / (1 + len(drawn))))
    return zs, ps
