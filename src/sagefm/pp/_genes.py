"""``sagefm.pp.match_genes``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sagefm._constants import UNS_KEY

if TYPE_CHECKING:
    import os

    import pandas as pd

    from sagefm.model import SAGEFM, Checkpoint


def match_genes(
    adata: Any,
    *,
    model: str | os.PathLike[str] | SAGEFM | Checkpoint = "default",
    gene_key: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
) -> pd.DataFrame:
    """Report which genes of a table are in a model's vocabulary.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData.
    model
        ``"default"``, the bundled model; a trained :class:`~sagefm.model.SAGEFM`, or the folder it was saved to;
        ``"organization/name"`` or ``"organization/name@revision"`` of the Hugging Face Hub; or ``"published"`` (the
        authors' checkpoint, see :func:`sagefm.model.load_published`).
    gene_key
        Column of ``var`` with gene symbols or Ensembl ids (with or without version); ``var_names`` if left out.
    table_key
        Table of a SpatialData object.
    mod
        Modality of a MuData object.

    Returns
    -------
    One row a gene of the table: ``gene`` (symbol), ``matched``, ``via`` ("symbol", "ensembl" or ""), ``duplicate``.
    Sets the following fields:

    ``adata.var["sagefm_gene"]``
        Symbol under which a gene is read, empty where it is not.
    ``adata.uns["sagefm"]["coverage"]``
        ``n_vocabulary``, ``n_matched``, ``coverage`` (share of the vocabulary) and the number found by Ensembl id.

    Raises
    ------
    GenesError
        Less than 10 % of the vocabulary is there, or ``var_names`` are not unique.
    MissingKeyError
        `gene_key` does not exist.

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
    from sagefm.checkpoint._resolve import resolve_model
    from sagefm.data._genes import match_genes as find
    from sagefm.data._table import get_table

    checkpoint = resolve_model(model)
    table = get_table(adata, table_key=table_key, mod=mod)
    match = find(table, checkpoint.vocabulary, gene_key)
    table.var["sagefm_gene"] = match.report["gene"].where(match.report["matched"], "").to_numpy(dtype=object)
    coverage = {
        "n_vocabulary": len(checkpoint.vocabulary),
        "n_matched": len(match.genes),
        "n_by_ensembl_id": int((match.report["via"] == "ensembl").sum()),
        "coverage": float(match.coverage),
    }
    table.uns[UNS_KEY] = {**table.uns.get(UNS_KEY, {}), "coverage": coverage}
    return match.report
