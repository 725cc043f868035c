"""``sagefm.tl.impute``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from sagefm._arguments import as_seed
from sagefm._constants import IMPUTED_KEY, SPATIAL_KEY
from sagefm.data._table import TableKeys
from sagefm.inference._impute_table import RECOVERED, impute_table, imputed_scale
from sagefm.tl._common import begin, provenance, record

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import numpy as np

    from sagefm.model import SAGEFM, Checkpoint

#: Names in `var` that are not those of :meth:`sagefm.metrics.Recovery.result`.
FIELDS: Final = {"qval": "q"}


def impute(
    adata: Any,
    model: str | os.PathLike[str] | SAGEFM | Checkpoint | None = "default",
    *,
    genes: Sequence[str] | None = None,
    mask: Literal["center", "neighborhood"] = "center",
    scale: Literal["counts", "log1p"] | None = None,
    target_sum: float | None = None,
    interval: float | None = None,
    n_folds: int = 4,
    rng: int | np.random.Generator = 0,
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
    r"""Predict genes at every spot, each while it is hidden.

    The genes are split into folds. Each fold is hidden in turn and predicted from the others, so no gene at a spot is
    ever predicted from its own count there. Several predictors do this, and are combined by what they are worth on your
    section: the network, and models that are fitted to the section itself (see the notes). A predictor that does not
    help there gets the weight 0.

    `r` and `q` tell you how well each gene's measured counts are recovered *beyond* what sequencing depth and the
    section's mean profile explain. They are too optimistic on spots that the model was trained on: judge by another
    section, or by the spots of ``model.validation_indices`` with :func:`sagefm.metrics.controls`.

    Parameters
    ----------
    adata, layer, gene_key, spatial_key, library_key, neighbors_key, table_key, mod, batch_size, device, progress, copy
        As in :func:`sagefm.tl.embed`.
    model
        As in :func:`sagefm.tl.embed`. With ``None``, only predictors of the section are used (`model=None`): all genes
        of the table are imputed, of any species.
    genes
        Genes to impute (symbols or Ensembl ids), measured or not. Default: all measured genes.
    mask
        ``"center"`` hides a fold at the center spot only, so its neighbors still show it; ``"neighborhood"`` hides it
        at all spots of the neighborhood (Zhan et al. 2026).
    scale
        ``"counts"`` writes expected counts, ``"log1p"`` their logarithm, ``log(1 + x)``. Default: counts; log1p for the
        published architecture.
    target_sum
        Counts that every spot is brought to, e.g. 1e4. Default: each spot keeps its own depth.
    interval
        Share of measured counts that a predictive interval is to cover, e.g. 0.8, for the chosen `genes`. Default: no
        intervals.
    n_folds
        Number of folds; 1/n_folds of the genes are hidden at a time.
    rng
        Seed for the folds, or a generator that draws one. The fold of a gene depends only on seed and vocabulary, and
        the parts that spots are split into for fitting only on seed and `obs_names`.
    key_added
        Key of the result.
    out
        Path of a zarr array to create (n_spots, n_vars), for results larger than memory. It is written in blocks of
        spots, and is there when it is complete. The layer is then a Dask array that reads it.

    Returns
    -------
    None, or the copy. Sets the following fields:

    ``adata.layers[key_added]``
        Imputed values (n_spots, n_vars). If all genes are imputed: dense float32, NaN for genes outside the vocabulary.
        With `genes`: CSR, with values in the columns of these genes only.
        ``adata.uns["sagefm"][key_added]["scale"]`` says on which scale.
    ``adata.layers[f"{key_added}_lower"]``, ``adata.layers[f"{key_added}_upper"]``
        With `interval`: between which counts the measured one was to be expected (CSR, in the scale of the values), from
        the gene's other spots. Counts are whole numbers, so that the ends cover more than they say: see
        :func:`sagefm.metrics.interval_coverage`.
    ``adata.obsm[key_added]``
        DataFrame of the requested genes that are not in `adata`, if there are any.
    ``adata.var[key_added]``
        Whether a gene was imputed.
    ``adata.var[f"{key_added}_r"]``, ``adata.var[f"{key_added}_q"]``
        Correlation of measured and imputed Pearson residuals from the null model (section profile x size factor), and
        the false discovery rate of r > 0, which knows that nearby spots are alike; see :class:`sagefm.metrics.Recovery`.
    ``adata.var[f"{key_added}_d2"]``
        Share of the null model's deviance that is explained.
    ``adata.var[f"{key_added}_ceiling"]``, ``adata.var[f"{key_added}_of_ceiling"]``
        r of a perfect prediction, which counting noise allows, and the share of it that is reached.
    ``adata.var[f"{key_added}_of_repeat"]``
        r over that of a second measurement of the same spots: above 1, the imputed value predicts a measured count better
        than measuring again would. This and the share are missing where a gene's signal does not stand out from noise.
    ``adata.var[f"{key_added}_trust"]``
        ``"good"``, ``"weak"`` or ``"none"``, by the rule of :func:`sagefm.metrics.trust`.
    ``adata.uns["sagefm"][key_added]``
        Parameters and provenance, and two tables. ``"weights"``: the ``weight`` of each ``predictor`` in each
        ``library`` and ``bin`` of expression (mean counts of a spot); not for the published architecture, which is used
        as it was trained. ``"levels"``, for requested genes that are not in `adata`: the ``mean`` of the expected counts
        by ``library`` and ``gene``, and an interval, ``lower`` to ``upper``, that holds the level of 80 % of the
        measured genes of a similar level. The pattern of such a gene over the spots is predicted for your section; its
        level is that of the training sections.
    ``adata.obsp["sagefm_connectivities"]``, ``adata.obsp["sagefm_distances"]``, ``adata.uns["sagefm_neighbors"]``
        The graph, if this call built it.

    Raises
    ------
    sagefm.errors.SagefmError
        As in :func:`sagefm.tl.embed`; a gene is not in the vocabulary; `out` exists or cannot be
        written; `scale` or `target_sum` are none.

    Notes
    -----
    The expected count of gene g at spot i is

    .. math::

        \mu_{ig} = n_{ig} \exp\Big(\sum_p w_{bp} L_{p,ig}\Big), \qquad w_{bp} \ge 0

    with n the null model (section profile x depth) and L the log ratio of each predictor to it:

    - ``network``: the network's, from what is visible;
    - ``factors``: a Poisson factor model of the visible genes, onto which hidden genes are projected;
    - ``ridge``: ridge regression on components of spot and neighborhood, and on the network's embedding, leave-one-out;
    - ``neighbors``: the gene's own counts at the neighbors (``mask="center"``).

    The spots are split into five parts at random, or into nine tiles with ``mask="neighborhood"``. What predicts a part
    is fitted to hidden counts of the other parts alone, and without those of its neighbors if these hide the gene, too.
    Weights by bin of expression b maximize the Poisson likelihood of hidden counts of the other parts, at spots that
    the predictors were not fitted to. Genes with fewer than ten counts are predicted by the network alone.
    The method page has the equations.

    Of more than 4,096 spots, fits are those of a sample; all are predicted. Counts are held in memory, as a sparse
    matrix.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> sagefm.tl.impute(adata, genes=["CD3E", "MS4A1"])
    >>> adata.layers["sagefm_imputed"].shape
    (302, 15005)
    >>> recovered = adata.var.loc[["CD3E", "MS4A1"], ["sagefm_imputed_r", "sagefm_imputed_trust"]]
    """
    rng = as_seed(rng)
    keys = TableKeys(layer, gene_key, spatial_key, library_key, neighbors_key)
    run = begin(
        adata,
        model,
        keys,
        key_added=key_added,
        table_key=table_key,
        mod=mod,
        device=device,
        copy=copy,
        needs_model=False,
    )
    result = impute_table(
        run.reader,
        run.checkpoint,
        vocabulary=run.vocabulary,
        genes=genes,
        mask=mask,
        scale=scale,
        target_sum=target_sum,
        interval=interval,
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
    for end, values in (("lower", result.lower), ("upper", result.upper)):
        table.layers.pop(f"{key_added}_{end}", None)
        if values is not None:
            table.layers[f"{key_added}_{end}"] = values
    table.var[key_added] = result.recovery["imputed"].to_numpy(dtype=bool)
    for name in RECOVERED:
        table.var[f"{key_added}_{FIELDS.get(name, name)}"] = result.recovery[name].to_numpy(dtype=float)
    table.var[f"{key_added}_trust"] = result.recovery["trust"].array
    params: dict[str, Any] = {"scale": imputed_scale(run.checkpoint, scale, target_sum), "mask": mask}
    params |= {"n_folds": n_folds, "rng": rng}
    optional = {"target_sum": target_sum, "interval": interval, "weights": result.weights, "levels": result.levels}
    params |= {name: value for name, value in optional.items() if value is not None}
    record(table, key_added, provenance(run, params))
    return run.data if copy else None
