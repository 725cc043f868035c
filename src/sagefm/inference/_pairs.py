"""Pairs of genes or complexes to perturb and read: from a resource, or checked as they are given."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sagefm._arguments import listed
from sagefm.data._genes import to_symbols
from sagefm.errors import ArgumentError, GenesError, MissingKeyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from sagefm.checkpoint._checkpoint import Checkpoint
    from sagefm.data._genes import Vocabulary
    from sagefm.data._reader import TableReader

logger = logging.getLogger(__name__)


def subunits(name: str, vocabulary: Vocabulary) -> list[str]:
    """Return the genes of a source or target: a gene of the vocabulary, or a complex of subunits joined by "_"."""
    return [name] if name in vocabulary.position else list(dict.fromkeys(name.split("_")))


def read_consensus(argument: str) -> pd.DataFrame:
    """Return LIANA's consensus ligand-receptor pairs as [source, target]; a message names the `argument` they are for."""
    try:
        from liana.resource import select_resource  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ArgumentError(
            f"{argument} is read from LIANA's resource, and liana is not installed: pip install liana. "
            "It is GPL-3 and therefore no dependency; or name the genes yourself."
        ) from error
    return select_resource("consensus").set_axis(["source", "target"], axis=1)


def consensus_pairs(name: str, vocabulary: Vocabulary, measured: NDArray[np.int64]) -> pd.DataFrame:
    """Return LIANA's consensus ligand-receptor pairs, of genes and complexes, as [source, target].

    All genes of the source must have been measured, all genes of the target must be in the vocabulary.
    """
    if name != "consensus":
        raise ArgumentError(f"pairs={name!r}; expected 'consensus' or a DataFrame with columns source and target.")
    pairs = read_consensus("pairs='consensus'")
    known = set(vocabulary.symbols)
    known_sources = {vocabulary.symbols[i] for i in measured}
    is_known = pairs["source"].map(lambda source: known_sources.issuperset(subunits(source, vocabulary)))
    is_known &= pairs["target"].map(lambda target: known.issuperset(subunits(target, vocabulary)))
    kept = pairs[is_known & ~_overlap(pairs, vocabulary)].drop_duplicates(ignore_index=True)
    logger.info("%d of %d consensus pairs have all of their genes here.", len(kept), len(pairs))
    if kept.empty:
        raise GenesError("No consensus pair has its source in this table and its target in the vocabulary.")
    return kept


def check_pairs(
    reader: TableReader,
    checkpoint: Checkpoint,
    pairs: pd.DataFrame | None,
    sources: Sequence[str] | None,
    targets: Sequence[str] | None,
) -> pd.DataFrame:
    """Return pairs as symbols [source, target], each once; raise for pairs that cannot be scored."""
    vocabulary = checkpoint.vocabulary
    as_lists = sources is not None or targets is not None
    if (pairs is None) != as_lists or (as_lists and (sources is None or targets is None)):
        raise ArgumentError("Pass either pairs=DataFrame[source, target], or both sources= and targets=.")
    if pairs is None:
        lists = [listed(sources, argument="sources"), listed(targets, argument="targets")]
        pairs = pd.MultiIndex.from_product(lists, names=["source", "target"]).to_frame(index=False)
    elif not isinstance(pairs, pd.DataFrame):
        raise ArgumentError(f"pairs is a {type(pairs).__name__}; expected a DataFrame with columns source and target.")
    else:
        missing = [name for name in ("source", "target") if name not in pairs]
        if missing:
            raise MissingKeyError(f"pairs has no column {missing}; found {list(pairs.columns)}.")
        pairs = pairs[["source", "target"]]
    if pairs.isna().any(axis=None):
        raise ArgumentError("pairs has missing values; expected a gene name in each row: pairs.dropna()")
    symbols = {role: _as_symbols(pairs[role], vocabulary) for role in ("source", "target")}
    pairs = pd.DataFrame(symbols).drop_duplicates(ignore_index=True)
    argument = "sources / targets" if as_lists else "pairs"
    vocabulary.positions(_genes(pairs.to_numpy().ravel(), vocabulary), argument=argument)
    overlap = _overlap(pairs, vocabulary)
    if as_lists:
        pairs = pairs[~overlap].reset_index(drop=True)
    elif overlap.any():
        source, target = pairs[overlap].iloc[0]
        raise ArgumentError(
            f"{int(overlap.sum())} pairs have a target equal to the source or a gene in common with it, e.g. {source!r} "
            f"and {target!r}; expected different genes: leave these pairs out."
        )
    if pairs.empty:
        raise ArgumentError("No pair to score: expected at least one source and a target other than it.")
    genes = _genes(pairs["source"], vocabulary)
    unmeasured = np.array(genes)[~np.isin(vocabulary.positions(genes, argument=argument), reader.match.genes)].tolist()
    if unmeasured:
        raise GenesError(
            f"Sources that were not measured in this table: {unmeasured[:5]} ({len(unmeasured)} in all). "
            f"There are no levels to set them to: leave them out."
        )
    return pairs


def _as_symbols(names: pd.Series, vocabulary: Vocabulary) -> NDArray[np.object_]:
    """Return names, and those of subunits, with Ensembl ids replaced by symbols."""
    return np.array(["_".join(to_symbols(pd.Index(subunits(str(name), vocabulary)))) for name in names], dtype=object)


def _genes(names: Iterable[str], vocabulary: Vocabulary) -> list[str]:
    """Return the genes of sources or targets, each once."""
    return list(dict.fromkeys(gene for name in names for gene in subunits(name, vocabulary)))


def _overlap(pairs: pd.DataFrame, vocabulary: Vocabulary) -> pd.Series:
    """Tell which pairs have a gene in both source and target."""
    both = zip(pairs["source"], pairs["target"], strict=True)
    overlap = [
        not set(subunits(source, vocabulary)).isdisjoint(subunits(target, vocabulary)) for source, target in both
    ]
    return pd.Series(overlap, index=pairs.index, dtype=bool)
