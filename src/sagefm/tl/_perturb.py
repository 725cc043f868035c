"""``sagefm.tl.perturb``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from sagefm._constants import PERTURB_KEY, SPATIAL_KEY

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import pandas as pd

    from sagefm.model import SAGEFM, Checkpoint


def perturb(
    adata: Any,
    model: str | os.PathLike[str] | SAGEFM | Checkpoint = "default",
    *,
    pairs: pd.DataFrame | Literal["consensus"] | None = None,
    sources: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    levels: int = 5,
    n_null: int = 100,
    rng: int = 0,
    per_spot: bool = False,
    layer: str | None = None,
    gene_key: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    library_key: str | None = None,
    neighbors_key: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    key_added: str = PERTURB_KEY,
    batch_size: int | None = None,
    device: str = "auto",
    progress: bool = True,
    copy: bool = False,
) -> Any:
    """Set a gene in the neighborhood of every spot and read others at the center.

    For each source, the neighbors' value is set to levels evenly spaced from its lowest to its highest over the
    data; the targets are hidden at the center and predicted (Zhan et al. 2026). An effect
    is held against those of the same source on random genes of similar expression.

    This is what the *network* makes of the data: an association that it learned, not a measured causal effect.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData with raw counts and spot coordinates.
    model
        ``"default"``, the bundled model; a trained :class:`~sagefm.model.SAGEFM`, or the folder it was saved to;
        ``"organization/name"`` or ``"organization/name@revision"`` of the Hugging Face Hub; or ``"published"`` (the
        authors' checkpoint, see :func:`sagefm.model.load_published`).
    pairs
        DataFrame with columns ``source`` and ``target``; or ``"consensus"``, LIANA's consensus ligand-receptor
        pairs of single genes that this table and model hold (needs ``pip install liana``, which is GPL-3).
    sources, targets
        Instead of `pairs`: all combinations of these genes.
    levels
        Number of levels.
    n_null
        Random genes a target is compared with.
    rng
        Seed of the random genes.
    per_spot
        Also write the effect at every spot.
    layer, gene_key, spatial_key, library_key, neighbors_key, table_key, mod, batch_size, device, copy
        As in :func:`sagefm.tl.embed`.
    key_added
        Key of the result.
    progress
        Show a progress bar, on a terminal.

    Returns
    -------
    None, or the copy. Sets the following fields:

    ``adata.uns[key_added]["scores"]``
        DataFrame, a row a pair: ``source``, ``target``; ``effect``, the mean over spots of the prediction at the
        highest level less that at the lowest; ``slope``, change of the mean prediction by unit of level; ``rho``,
        mean over spots of the rank correlation of level and prediction; ``z`` and ``pval``, the effect against the
        effects on random genes, two-sided; ``qval``, Benjamini-Hochberg over the pairs; ``n_spots``.
    ``adata.uns[key_added]["curves"]``
        DataFrame of dose curves, a row a pair and level: ``mean``, and ``low`` and ``high``, the 10 % and 90 %
        quantiles over spots, of the prediction less that at the lowest level.
    ``adata.uns[key_added]["params"]``
        Parameters, units and provenance.
    ``adata.obsm[key_added]``
        With `per_spot`: DataFrame of effects (n_spots, n_pairs), columns ``"SOURCE^TARGET"``.
    ``adata.obsp["sagefm_connectivities"]``, ``adata.obsp["sagefm_distances"]``, ``adata.uns["sagefm_neighbors"]``
        The graph, if it was built.

    Raises
    ------
    sagefm.errors.SagefmError
        As :func:`sagefm.tl.embed`; a gene that is not in the vocabulary, a source that was not measured, a target
        equal to its source.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> sagefm.tl.perturb(adata, sources=["CXCL13"], targets=["CXCR5", "MS4A1"], n_null=20)
    >>> scores = adata.uns["sagefm_perturb"]["scores"]
    >>> scores[["source", "target"]].to_numpy().tolist()
    [['CXCL13', 'CXCR5'], ['CXCL13', 'MS4A1']]
    """
    from sagefm.tl._common import begin, provenance

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
    from sagefm.inference._pairs import check_pairs, consensus_pairs
    from sagefm.inference._perturb_table import perturb_table

    if isinstance(pairs, str):
        pairs = consensus_pairs(pairs, run.checkpoint.vocabulary, run.reader.match.genes)
    checked = check_pairs(run.reader, run.checkpoint, pairs, sources, targets, levels, n_null, rng)
    result = perturb_table(
        run.reader,
        run.checkpoint,
        checked,
        levels=levels,
        n_null=n_null,
        rng=rng,
        per_spot=per_spot,
        device=run.device,
        batch_size=batch_size,
        progress=progress,
    )
    units = {"level_unit": result.level_unit, "response_unit": result.response_unit}
    run.table.uns[key_added] = {
        "scores": result.scores,
        "curves": result.curves,
        "params": provenance(run, {"levels": levels, "n_null": n_null, "rng": rng, **units}),
    }
    # An earlier call may have left effects of other pairs.
    run.table.obsm.pop(key_added, None)
    if per_spot:
        run.table.obsm[key_added] = result.per_spot
    return run.data if copy else None
