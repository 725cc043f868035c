"""``sagefm.pp.match_genes``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sagefm._constants import UNS_KEY
from sagefm.data import _genes
from sagefm.data._table import entry, get_table

if TYPE_CHECKING:
    import os

    import pandas as pd

    from sagefm.model import SAGEFM, Checkpoint


def match_genes(
    adata: Any,
    model: str | os.PathLike[str] | SAGEFM | Checkpoint = "default",
    *,
    gene_key: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
) -> pd.DataFrame:
    """Report which genes of a table are in a model's vocabulary.

    Genes are found by symbol or Ensembl id. Other names are used where they can mean one gene only: earlier or later
    official symbols (HGNC), and names that a program has changed, e.g. ``HLA.A``, ``GRCh38_CD3E`` or ``9-Mar``. Features
    that are no genes by ``var["feature_types"]`` are left out. Matching is case-sensitive: the mouse symbol ``Gapdh``
    does not match ``GAPDH``.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData.
    model
        As in :func:`sagefm.tl.embed`. ``"default"`` is the bundled model.
    gene_key
        Column of ``var`` with gene symbols or Ensembl ids (with or without version). Default: ``var_names``.
    table_key, mod
        Table of a SpatialData object; modality of a MuData object.

    Returns
    -------
    DataFrame with one row per gene of the table: ``gene`` (symbol), ``matched``, ``via`` ("symbol", "ensembl",
    "previous" of renamed genes, "spelling" of changed names, or ""), and ``duplicate`` (another column holds this gene,
    so this one is not used).
    Sets the following fields:

    ``adata.var["sagefm_gene"]``
        Symbol of each gene that the model uses, empty for the others.
    ``adata.uns["sagefm"]["coverage"]``
        ``n_vocabulary``, ``n_matched``, ``n_by_ensembl_id`` and ``coverage``, the matched share of the vocabulary.

    Raises
    ------
    sagefm.errors.SagefmError
        The table holds too few genes of the vocabulary (less than 10 % of it and fewer than 200), ``var_names`` are not
        unique, or `gene_key` or the model does not exist.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> report = sagefm.pp.match_genes(adata)
    >>> report.loc["CD3E", "via"]
    'symbol'
    >>> adata.uns["sagefm"]["coverage"]["n_matched"] == int(report["matched"].sum())
    True
    """
    from sagefm.checkpoint._resolve import resolve_model  # imports torch

    vocabulary = resolve_model(model).vocabulary
    table = get_table(adata, table_key=table_key, mod=mod)
    match = _genes.match_genes(table, vocabulary, gene_key)
    report = match.report
    table.var["sagefm_gene"] = report["gene"].where(report["matched"], "").to_numpy(dtype=object)
    coverage = {
        "n_vocabulary": len(vocabulary),
        "n_matched": len(match.genes),
        "n_by_ensembl_id": int((report["via"] == "ensembl").sum()),
        "coverage": float(match.coverage),
    }
    table.uns[UNS_KEY] = {**entry(table, UNS_KEY), "coverage": coverage}
    return report
