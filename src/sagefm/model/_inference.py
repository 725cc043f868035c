"""A checkpoint applied to a table, section by section; what ``sagefm.tl`` writes and ``SAGEFM`` returns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from scipy import sparse, stats
from tqdm.auto import tqdm

from sagefm._arguments import whole_number
from sagefm._constants import BLOCK_ROWS
from sagefm.data._genes import to_symbols
from sagefm.errors import ArgumentError, GenesError, MissingKeyError
from sagefm.metrics._recovery import Recovery
from sagefm.model._embedding import embed_section
from sagefm.model._imputation import impute_section
from sagefm.model._perturbation import draw_null_genes, perturb_source, prepare_section, value_range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sagefm.model._checkpoint import Checkpoint
    from sagefm.model._inputs import TableReader

#: Pair name in ``obsm["sagefm_perturb"]``, as liana and squidpy write it.
PAIR_SEPARATOR = "^"


@dataclass(frozen=True)
class Imputation:
    """Imputed values.

    Attributes
    ----------
    layer
        Values of genes of the table (n_spots, n_vars): dense with NaN for genes outside the vocabulary, or
        CSR with the requested columns alone.
    outside
        Values of requested genes that the table does not hold (n_spots, n_outside).
    recovery
        Recovery of each gene of the table: ``imputed``, ``r``, ``qval``, ``d2``; NaN where not imputed.
    scale
        ``"counts"`` or ``"log1p"``.
    """

    layer: NDArray[np.float32] | sparse.csr_matrix
    outside: pd.DataFrame
    recovery: pd.DataFrame
    scale: str


@dataclass(frozen=True)
class Perturbation:
    """Perturbation scores, dose curves, and effects by spot (n_spots, n_pairs); units of levels and responses."""

    scores: pd.DataFrame
    curves: pd.DataFrame
    per_spot: pd.DataFrame
    level_unit: str
    response_unit: str


def embed_table(
    reader: TableReader, checkpoint: Checkpoint, *, device: torch.device, batch_size: int | None = None
) -> NDArray[np.float32]:
    """Return the embedding of every spot of a table, float32 (n_spots, n_latent)."""
    block_rows = _block_rows(batch_size)
    network = checkpoint.network.to(device)
    embedding = np.empty((reader.table.n_obs, checkpoint.config.hidden[-1]), dtype=np.float32)
    for inputs in reader.inputs(checkpoint.config):
        embedding[inputs.section.rows] = embed_section(network, inputs, device, block_rows)
    return embedding


def check_impute(
    reader: TableReader, checkpoint: Checkpoint, genes: Sequence[str] | None, mask: str, n_folds: int, rng: int
) -> NDArray[np.int64]:
    """Return the vocabulary positions to impute, increasing; raise for arguments that cannot be used."""
    if mask not in ("center", "neighborhood"):
        raise ArgumentError(f"mask={mask!r}; expected 'center' or 'neighborhood'.")
    whole_number(n_folds, name="n_folds", minimum=2)
    whole_number(rng, name="rng", minimum=0)
    if genes is None:
        return reader.match.genes
    listed = _listed(genes, argument="genes")
    return np.unique(checkpoint.vocabulary.positions(listed, argument="genes"))


def impute_table(
    reader: TableReader,
    checkpoint: Checkpoint,
    *,
    genes: Sequence[str] | None = None,
    mask: str = "center",
    n_folds: int = 4,
    rng: int = 0,
    device: torch.device,
    batch_size: int | None = None,
    progress: bool = False,
) -> Imputation:
    """Impute genes of a table; see :func:`sagefm.tl.impute`."""
    requested = check_impute(reader, checkpoint, genes, mask, n_folds, rng)
    block_rows = _block_rows(batch_size)
    table, match = reader.table, reader.match
    network = checkpoint.network.to(device)
    at = np.searchsorted(match.genes, requested)
    at[at == len(match.genes)] = 0
    is_measured = match.genes[at] == requested
    columns = match.columns[at[is_measured]]
    outside_genes = requested[~is_measured]

    inputs = reader.inputs(checkpoint.config)
    dense = genes is None
    values = np.empty((table.n_obs, len(columns)), np.float32)
    if dense:
        layer = np.full(table.shape, np.nan, dtype=np.float32)
    outside = np.empty((table.n_obs, len(outside_genes)), np.float32)
    recovery = Recovery(len(columns))
    n_blocks = sum(-(-section.section.n_spots // block_rows) for section in inputs)
    with tqdm(total=n_blocks, desc="impute", unit="block", disable=None if progress else True, leave=False) as bar:
        for section in inputs:
            blocks = impute_section(
                network,
                section,
                requested,
                mask=mask,
                n_folds=n_folds,
                rng=rng,
                device=device,
                recovery=recovery,
                block_rows=block_rows,
            )
            for block in blocks:
                values[block.rows] = block.measured
                outside[block.rows] = block.unmeasured
                bar.update()
    if dense:
        layer[:, columns] = values
        result: NDArray[np.float32] | sparse.csr_matrix = layer
    else:
        result = _as_columns(values, columns, table.n_vars)
    measured_recovery = recovery.result()
    report = pd.DataFrame({"imputed": False, "r": np.nan, "qval": np.nan, "d2": np.nan}, index=table.var_names)
    report.iloc[columns, 0] = True
    for i, name in enumerate(("r", "qval", "d2"), start=1):
        report.iloc[columns, i] = measured_recovery[name].to_numpy()
    names = [checkpoint.vocabulary.symbols[gene] for gene in outside_genes]
    return Imputation(
        result,
        pd.DataFrame(outside, index=table.obs_names, columns=names),
        report,
        "log1p" if checkpoint.config.input == "log1p" else "counts",
    )


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
        lists = [_listed(sources, argument="sources"), _listed(targets, argument="targets")]
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
        raise GenesError(
            f"{pairs['source'][unmeasured].nunique()} sources were not measured in this table, "
            f"e.g. {pairs['source'][unmeasured].iloc[0]!r}: there are no levels to set them to. Leave them out."
        )
    return pairs


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
    block_rows = _block_rows(batch_size)
    inputs = reader.inputs(config)
    sections = [prepare_section(network, section, device) for section in inputs]
    gene_totals = np.zeros(len(vocabulary))
    gene_totals[reader.match.genes] = sum(section.section.gene_totals.astype(np.float64) for section in inputs)
    spot_rows = np.concatenate([section.section.rows for section in inputs])

    scores, curves, effects = [], [], {}
    groups = list(pairs.groupby("source", sort=False))
    for name, group in tqdm(groups, desc="perturb", unit="source", disable=None if progress else True, leave=False):
        source = vocabulary.position[str(name)]
        targets = np.array([vocabulary.position[target] for target in group["target"]])
        null_genes = draw_null_genes(gene_totals, source, targets, n_null, rng)
        low, high = value_range(sections, source)
        dose = np.linspace(low, high, levels, dtype=np.float32)
        union = np.unique(np.concatenate(null_genes)).astype(np.int64)
        response = perturb_source(network, sections, source, targets, union, dose, device, block_rows)
        mean = response.curve[0]
        effect = mean[-1]
        slope = np.polyfit(dose, mean, 1)[0] if high > low else np.full(len(targets), np.nan)
        null = [response.null[np.searchsorted(union, chosen)] for chosen in null_genes]
        z, pval = _against_null(effect, null)
        columns = {"effect": effect, "slope": slope, "rho": response.rho, "z": z, "pval": pval}
        scores.append(group.reset_index(drop=True).assign(**columns))
        for j, target in enumerate(group["target"]):
            by_level = {
                "level": dose,
                "mean": mean[:, j],
                "low": response.curve[1, :, j],
                "high": response.curve[2, :, j],
            }
            curves.append(pd.DataFrame({"source": name, "target": target, **by_level}))
            if per_spot:
                column = np.empty(len(spot_rows), np.float32)
                column[spot_rows] = response.effect[:, j]
                effects[f"{name}{PAIR_SEPARATOR}{target}"] = column

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
        pd.DataFrame(effects, index=reader.table.obs_names),
        f"log1p({config.scale:g} counts / total)" if relative else "log1p(counts)",
        "log rate ratio" if relative else "log1p(counts)",
    )


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


def _as_columns(values: NDArray[np.float32], columns: NDArray[np.int64], n_vars: int) -> sparse.csr_matrix:
    """Return a CSR matrix (n_spots, n_vars) that holds `values` in `columns`."""
    order = np.argsort(columns)
    n_spots, n_columns = values.shape
    indices = np.tile(columns[order], n_spots)
    indptr = np.arange(0, n_spots * n_columns + 1, n_columns) if n_columns else np.zeros(n_spots + 1, dtype=np.int64)
    return sparse.csr_matrix((values[:, order].ravel(), indices, indptr), shape=(n_spots, n_vars))


def _block_rows(batch_size: int | None) -> int:
    return BLOCK_ROWS if batch_size is None else whole_number(batch_size, name="batch_size", minimum=1)


def _listed(genes: object, *, argument: str) -> list[str]:
    """Return gene names as a list; one name stands for a list of one."""
    if isinstance(genes, str):
        return [genes]
    if not isinstance(genes, Iterable) or not (names := [str(gene) for gene in genes]):
        raise ArgumentError(f"{argument}={genes!r}; expected gene names.")
    return names
