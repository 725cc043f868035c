"""``sagefm.tl.embed``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sagefm._constants import EMBEDDING_KEY, SPATIAL_KEY, UNS_KEY

if TYPE_CHECKING:
    import os

    from sagefm.model import SAGEFM, Checkpoint


def embed(
    adata: Any,
    model: str | os.PathLike[str] | SAGEFM | Checkpoint = "default",
    *,
    layer: str | None = None,
    gene_key: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    library_key: str | None = None,
    neighbors_key: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    key_added: str = EMBEDDING_KEY,
    batch_size: int | None = None,
    device: str = "auto",
    client: Any = None,
    copy: bool = False,
) -> Any:
    """Embed every spot from its counts and those of its neighborhood.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData with raw counts and spot coordinates.
    model
        ``"default"``, the bundled model; a trained :class:`~sagefm.model.SAGEFM`, or the folder it was saved to;
        ``"organization/name"`` or ``"organization/name@revision"`` of the Hugging Face Hub; or ``"published"`` (the
        authors' checkpoint, see :func:`sagefm.model.load_published`).
    layer
        Layer with raw counts; ``X`` if left out.
    gene_key
        Column of ``var`` with gene symbols or Ensembl ids; ``var_names`` if left out.
    spatial_key
        Coordinates in ``obsm`` (n_spots, 2), any unit. Of SpatialData, where the table has none: centroids of the
        shapes that it annotates; the name of a coordinate system gives them there.
    library_key
        Column of ``obs`` that names the section of each spot. If left out, the regions of a SpatialData table that
        annotates several.
    neighbors_key
        A spatial graph of yours, e.g. ``"spatial"`` for squidpy's. If left out, the neighborhoods of
        :func:`sagefm.pp.spatial_neighbors` are used, and built where they are not stored yet.
    table_key
        Table of a SpatialData object.
    mod
        Modality of a MuData object.
    key_added
        Key of the embedding in ``obsm``.
    batch_size
        Spots made dense at a time; it does not change the result.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
    client
        A :class:`distributed.Client`, or the address of a Dask scheduler: its workers read the chunks of a Dask array
        (or are sent blocks of other counts) and multiply them, on their CPUs.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. Sets the following fields:

    ``adata.obsm[key_added]``
        Embedding, float32 (n_spots, n_latent).
    ``adata.uns["sagefm"][key_added]``
        Parameters, model, checkpoint hash, share of the vocabulary that was found, versions.
    ``adata.obsp["sagefm_connectivities"]``, ``adata.obsp["sagefm_distances"]``, ``adata.uns["sagefm_neighbors"]``
        The graph, if it was built.

    Raises
    ------
    sagefm.errors.SagefmError
        A key that does not exist, values that are not raw counts, too few genes of the vocabulary, fewer than 15
        spots in a library, an unknown model; see :mod:`sagefm.errors`.

    Notes
    -----
    ``z_i = encode(W_center c_i + W_neigh v_i + b)``: see ``sagefm/module`` for the networks and
    ``sagefm/inference/_products.py`` for how a section is computed with one product.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> sagefm.tl.embed(adata)
    >>> adata.obsm["X_sagefm"].shape
    (302, 64)
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
    from sagefm.inference._embed import embed_table

    embedding = embed_table(run.reader, run.checkpoint, device=run.device, batch_size=batch_size, client=client)
    run.table.obsm[key_added] = embedding
    record(run, UNS_KEY, key_added, {"n_latent": int(embedding.shape[1])})
    return run.data if copy else None
