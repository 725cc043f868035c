"""The genes of many sections: which were measured, and which are expressed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sagefm._progress import ProgressBar
from sagefm.data._blocks import to_memory
from sagefm.data._counts import get_counts
from sagefm.data._files import read_symbols
from sagefm.data._genes import get_gene_names, named_genes, to_symbols

if TYPE_CHECKING:
    from sagefm.data._corpus import Corpus


def count_genes(corpus: Corpus, *, progress: bool) -> pd.Series:
    """Return in how many sections each gene was measured, the most frequent first."""
    counts: Counter[str] = Counter()
    with ProgressBar("reading names of genes", len(corpus), "section", progress=progress) as bar:
        for path in corpus.paths:
            counts.update(dict.fromkeys(read_symbols(path, corpus.table_key, corpus.gene_key), 1))
            bar.update()
    return pd.Series(dict(counts.most_common()), dtype=int)


def find_expressed(
    corpus: Corpus, by: str | None, min_detected: float, min_groups: int, *, progress: bool
) -> list[str]:
    """Return named coding genes that are detected in sections of several groups, sorted."""
    groups: dict[str, set[str]] = {}
    with ProgressBar("reading genes", len(corpus), "section", progress=progress) as bar:
        for i, name in enumerate(corpus.names):
            table = corpus.read(i)
            symbols = to_symbols(get_gene_names(table, corpus.gene_key))
            counts = to_memory(get_counts(table, corpus.layer))
            detected = np.bincount(counts.indices[counts.data > 0], minlength=counts.shape[1]) / max(len(table), 1)
            group = name if by is None else str(corpus.metadata[by].iloc[i])
            for symbol in symbols[detected >= min_detected]:
                groups.setdefault(str(symbol), set()).add(group)
            bar.update()
    return named_genes(sorted(gene for gene, seen in groups.items() if len(seen) >= min_groups))
