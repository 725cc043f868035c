"""``sagefm.tl.impute``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from sagefm._constants import IMPUTED_KEY, SPATIAL_KEY, UNS_KEY

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from sagefm.model import SAGEFM, Checkpoint


def impute(
    adata: Any,
    model: str | os.PathLike[str] | SAGEFM | Checkpoint = "default",
    *,
    genes: Sequence[str] | None = None,
    mask: Literal["center", "neighborhood"] = "center",
    n_folds: int = 4,
    rng: int = 0,
    layer: str | None = None,
    gene_key: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    library_key: str | None = None,
    neighbors_key: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    key_added: str = IMPUTED_KEY,
    batch_size: int | None = None,
    device: str = "auto",
    progress: bool = True,
    out: str | os.PathLike[str] | None = None,
    copy: bool = False,
) -> Any:
    """Predict genes at every spot, each from the genes it was hidden with.

    The genes are cut into folds; a fold is hidden and predicted from the others, so that no gene is
    shown to itself. `r` and `q` say, gene by gene, what that recovers of the measured counts *beyond*
    sequencing depth and the section's mean profile. On spots that the model was trained on they are too high, for
    every count was a target of training: judge by another section, or by ``model.validation_indices`` with
    :func:`sagefm.metrics.controls`.

    The default network's read-out is fitted to the section first: what hidden counts have in common with the embedding
    in the *other* spots is added, and the geometric mean taken with a Poisson factor model of them
    (``sagefm/inference/_readout.py``). A spot's place in that is drawn from its name in ``obs_names``.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData with raw counts and spot coordinates.
    model
        ``"default"``, the bundled model; a trained :class:`~sagefm.model.SAGEFM`, or the folder it was saved to;
        ``"organization/name"`` or ``"organization/name@revision"`` of the Hugging Face Hub; or ``"published"`` (the
        authors' checkpoint, see :func:`sagefm.model.load_published`).
    genes
        Genes to impute, symbols or Ensembl ids, measured or not. All measured genes if left out.
    mask
        ``"center"`` hides a fold at the center, so that neighbors show it; ``"neighborhood"`` hides it at all
        spots of the neighborhood (Zhan et al. 2026).
    n_folds
        Number of folds; 1/n_folds of the genes are hidden at a time.
    rng
        Seed of the folds. The fold of a gene depends on this and the vocabulary alone.
    layer, gene_key, spatial_key, library_key, neighbors_key, table_key, mod, batch_size, device, copy
        As in :func:`sagefm.tl.embed`.
    key_added
        Key of the result.
    progress
        Show a progress bar, on a terminal.
    out
        Zarr array to create (n_spots, n_vars), written in blocks of spots: for results larger than memory. The layer
        is then a Dask array of it.

    Returns
    -------
    None, or the copy. Sets the following fields:

    ``adata.layers[key_added]``
        Imputed values (n_spots, n_vars). All genes: dense float32, NaN for genes outside the vocabulary.
        With `genes`: CSR, with these columns alone. Expected counts at the spot's own depth (default
        architecture) or log1p counts (published), see ``adata.uns["sagefm"][key_added]["scale"]``.
    ``adata.obsm[key_added]``
        DataFrame of requested genes that are not in `adata`, if there are any.
    ``adata.var[key_added]``
        Whether a gene was imputed.
    ``adata.var[f"{key_added}_r"]``, ``adata.var[f"{key_added}_q"]``
        Correlation of Pearson residuals, measured with imputed, over the null model (section profile x size
        factor), and the false discovery rate of r > 0; see :class:`sagefm.metrics.Recovery`.
    ``adata.uns["sagefm"][key_added]``
        Parameters and provenance.
    ``adata.obsp["sagefm_connectivities"]``, ``adata.obsp["sagefm_distances"]``, ``adata.uns["sagefm_neighbors"]``
        The graph, if it was built.

    Raises
    ------
    sagefm.errors.SagefmError
        As :func:`sagefm.tl.embed`; a gene that is not in the vocabulary.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> sagefm.tl.impute(adata, genes=["CD3E", "MS4A1"])
    >>> adata.layers["sagefm_imputed"].shape
    (302, 15005)
    >>> recovered = adata.var.loc[["CD3E", "MS4A1"], ["sagefm_imputed_r", "sagefm_imputed_q"]]
    """
    from sagefm.tl._common import begin, record

    run = begin(
        adata,
        model,
        layer=layer,
        gene_key=gene_key,
        spatial_key=spatial_key,
        library_key=library_key,
        neighbors_key=neighbors_key,
        key_added=key_added,
        table_key=table_key,
        mod=mod,
        device=device,
        copy=copy,
    )
    from sagefm.inference._impute_table import impute_table

    result = impute_table(
        run.reader,
        run.checkpoint,
        genes=genes,
        mask=mask,
        n_folds=n_folds,
        rng=rng,
        out=out,
        device=run.device,
        batch_size=batch_size,
        progress=progress,
    )
    table = run.table
    table.layers[key_added] = result.layer
    # An earlier call may have left genes that this one did not impute.
    table.obsm.pop(key_added, None)
    if result.outside.shape[1]:
        table.obsm[key_added] = result.outside
    table.var[key_added] = result.recovery["imputed"].to_numpy(dtype=bool)
    table.var[f"{key_added}_r"] = result.recovery["r"].to_numpy(dtype=float)
    table.var[f"{key_added}_q"] = result.recovery["qval"].to_numpy(dtype=float)
    record(run, UNS_KEY, key_added, {"scale": result.scale, "mask": mask, "n_folds": n_folds, "rng": rng})
    return run.data if copy else None
