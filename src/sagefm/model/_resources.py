"""Pairs of genes by name of a resource."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sagefm.errors import ArgumentError, GenesError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sagefm.data._genes import Vocabulary

logger = logging.getLogger(__name__)


def consensus_pairs(name: str, vocabulary: Vocabulary, measured: NDArray[np.int64]) -> pd.DataFrame:
    """Return LIANA's consensus ligand-receptor pairs as [source, target].

    Pairs of which a partner is a complex of several genes are left out, as are those whose source was not
    measured or whose target is not in the vocabulary.

    Raises
    ------
    ArgumentError
        The name is not ``"consensus"``, or liana is not installed.
    GenesError
        No pair is left.
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
