"""``sagefm.tl.embed``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sagefm._constants import EMBEDDING_KEY, SPATIAL_KEY
from sagefm.data._table import TableKeys
from sagefm.inference._embed import embed_table
from sagefm.tl._common import begin, provenance, record

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
    progress: bool = True,
    copy: bool = False,
) -> Any:
    """Embed every spot from its own counts and those of its neighborhood.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData with raw counts and spot coordinates.
    model
        ``"default"``, the bundled model; a trained :class:`~sagefm.model.SAGEFM`, or the folder it was saved to;
        ``"organization/name"`` or ``"organization/name@revision"`` on the Hugging Face Hub; or ``"published"``, the
        authors' checkpoint (see :func:`sagefm.model.load_published`).
    layer
        Layer with raw counts. Default: ``X``.
    gene_key
        Column of ``var`` with gene symbols or Ensembl ids. Default: ``var_names``.
    spatial_key
        Key of the coordinates in ``obsm`` (n_spots, 2), in any unit. For a SpatialData table without them: the
        centroids of the shapes that it annotates, or, if `spatial_key` names a coordinate system, the centroids in that
        system.
    library_key
        Column of ``obs`` that names the section of each spot. Default: the one that the stored graph was built with, if
        any; the regions, for a SpatialData table that annotates several; otherwise, all spots are one section.
    neighbors_key
        Key of a spatial graph of your own, e.g. ``"spatial"`` for squidpy's. Default: the 15-spot neighborhoods of
        :func:`sagefm.pp.spatial_neighbors`, which are built if they are not stored yet. If a graph is stored with
        another number of spots, that number is kept.
    table_key
        Table of a SpatialData object.
    mod
        Modality of a MuData object.
    key_added
        Key of the embedding in ``obsm``.
    batch_size
        Number of spots processed at a time. It does not change the result.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
    client
        A :class:`distributed.Client`, or the address of a Dask scheduler. Its workers read the chunks of a Dask array
        (other counts are sent to them in blocks) and compute the large matrix product on their CPUs.
    progress
        Show what is being done, and how much of it, in a terminal or a notebook. Nothing is shown of work that takes
        less than a second, and nothing is left when it is done.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. Sets the following fields:

    ``adata.obsm[key_added]``
        Embedding, float32 (n_spots, n_latent).
    ``adata.uns["sagefm"][key_added]``
        Parameters, model and its hash, share of its vocabulary that the table holds, versions.
    ``adata.obsp["sagefm_connectivities"]``, ``adata.obsp["sagefm_distances"]``, ``adata.uns["sagefm_neighbors"]``
        The graph, if this call built it.

    Raises
    ------
    sagefm.errors.SagefmError
        A key does not exist, values are not raw counts, the table holds too few genes of the model's vocabulary, a
        library has fewer than 15 spots, or the model is unknown; see :mod:`sagefm.errors`.

    Notes
    -----
    ``z_i = encode(W_center c_i + W_neigh v_i + b)``. ``sagefm/data/_input.py`` defines c (read from the spot) and v
    (read from its neighbors), ``sagefm/inference/_products.py`` computes the first layer for a whole section with one
    matrix product, and ``sagefm/module`` holds the networks. What is written is z itself, from which genes are read as
    ``F z + f``: it needs no scaling before ``scanpy.pp.neighbors`` or k-means.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> sagefm.tl.embed(adata)
    >>> adata.obsm["X_sagefm"].shape
    (302, 64)
    """
    run = begin(
        adata,
        model,
        TableKeys(layer, gene_key, spatial_key, library_key, neighbors_key),
        key_added=key_added,
        table_key=table_key,
        mod=mod,
        device=device,
        copy=copy,
    )
    embedding = embed_table(
        run.reader, run.checkpoint, device=run.device, batch_size=batch_size, client=client, progress=progress
    )
    run.table.obsm[key_added] = embedding
    record(run.table, key_added, provenance(run, {"n_latent": int(embedding.shape[1])}))
    return run.data if copy else None
