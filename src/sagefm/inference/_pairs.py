"""Pairs of genes to perturb and read: from a resource, or checked as they are given."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sagefm._arguments import as_seed, listed, whole_number
from sagefm.data._genes import to_symbols
from sagefm.errors import ArgumentError, GenesError, MissingKeyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sagefm.checkpoint._checkpoint import Checkpoint
    from sagefm.data._genes import Vocabulary
    from sagefm.data._reader import TableReader

logger = logging.getLogger(__name__)


def consensus_pairs(name: str, vocabulary: Vocabulary, measured: NDArray[np.int64]) -> pd.DataFrame:
    """Return LIANA's consensus ligand-receptor pairs of single genes as [source, target].

    The source must have been measured, the target must be in the vocabulary.
    """
    if name != "consensus":
        raise ArgumentError(f"pairs={name!r}; expected 'consensus' or a DataFrame with columns source and target.")
    try:
        from liana.resource import select_resource  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ArgumentError(
            "pairs='consensus' reads LIANA's resource, and liana is not installed: pip install liana. "
            "It is GPL-3 and therefore no dependency; or pass pairs=DataFrame[source, target]."
        ) from error
    resource = select_resource("consensus")
    pairs = resource.rename(columns={"ligand": "source", "receptor": "target"})[["source", "target"]]
    position = vocabulary.position
    known_source = pairs["source"].map(lambda gene: position.get(gene, -1)).isin(measured)
    kept = pairs[known_source & pairs["target"].isin(position) & (pairs["source"] != pairs["target"])]
    logger.info("%d of %d consensus pairs are of single genes that are here.", len(kept), len(pairs))
    if kept.empty:
        raise GenesError("No consensus pair has its source in this table and its target in the vocabulary.")
    return kept.drop_duplicates(ignore_index=True)


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
    as_seed(rng)
    as_lists = sources is not None or targets is not None
    if (pairs is None) != as_lists or (as_lists and (sources is None or targets is None)):
        raise ArgumentError("Pass either pairs=DataFrame[source, target], or both sources= and targets=.")
    if pairs is None:
        lists = [listed(sources, argument="sources"), listed(targets, argument="targets")]
        pairs = pd.MultiIndex.from_product(lists, names=["source", "target"]).to_frame(index=False)
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
