"""``sagefm.tl.perturb``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from sagefm._arguments import as_seed
from sagefm._constants import NEIGHBORS_KEY, PERTURB_KEY, SPATIAL_KEY, UNS_KEY
from sagefm.data._table import TableKeys
from sagefm.inference._pairs import check_pairs, consensus_pairs
from sagefm.inference._perturb_table import perturb_table
from sagefm.tl._common import begin, provenance

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import numpy as np
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
    rng: int | np.random.Generator = 0,
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
    """Change a gene in the neighbors of every spot, and predict other genes at the spot itself (the center).

    In the neighbors, each source is set to evenly spaced levels, from its lowest to its highest value in the data; the
    targets are hidden at the center and predicted (Zhan et al. 2026). Each effect is compared with those of the same
    source on random genes of similar expression.

    An effect is what the *network* has learned about genes in neighboring spots: an association, not a measured
    causal effect.

    Parameters
    ----------
    adata, model, layer, gene_key, spatial_key, library_key, neighbors_key, table_key, mod, batch_size, device, copy
        As in :func:`sagefm.tl.embed`.
    pairs
        DataFrame with columns ``source`` and ``target``; or ``"consensus"``: of LIANA's consensus ligand-receptor
        pairs, those of single genes whose source was measured and whose target the model knows (needs
        ``pip install liana``, which is GPL-3).
    sources, targets
        Instead of `pairs`: test all combinations of these genes.
    levels
        Number of levels that a source is set to.
    n_null
        Number of random genes that a target is compared with.
    rng
        Seed for drawing the random genes, or a generator that draws one.
    per_spot
        Also write the effect at every spot.
    key_added
        Key of the result.
    progress
        Show a progress bar (only on a terminal).

    Returns
    -------
    None, or the copy. Sets the following fields:

    ``adata.uns[key_added]["scores"]``
        DataFrame with a row for each pair: ``source``, ``target``; ``effect``, the mean over spots of the prediction at
        the highest level minus that at the lowest; ``slope``, the change of the mean prediction per unit of level;
        ``rho``, the mean over spots of the rank correlation between level and prediction; ``z`` and ``pval``
        (two-sided), the effect compared with those on random genes; ``qval``, ``pval`` adjusted over the pairs
        (Benjamini-Hochberg); ``n_spots``.
    ``adata.uns[key_added]["curves"]``
        DataFrame of dose-response curves, with a row for each pair and level. It describes the prediction minus that at
        the lowest level, over spots: its ``mean``, and ``low`` and ``high``, its 10 % and 90 % quantiles.
    ``adata.uns[key_added]["params"]``
        Parameters, units and provenance.
    ``adata.obsm[key_added]``
        With `per_spot`: DataFrame of effects (n_spots, n_pairs), columns ``"SOURCE^TARGET"``.
    ``adata.obsp["sagefm_connectivities"]``, ``adata.obsp["sagefm_distances"]``, ``adata.uns["sagefm_neighbors"]``
        The graph, if this call built it.

    Raises
    ------
    sagefm.errors.SagefmError
        As in :func:`sagefm.tl.embed`; or a gene is not in the vocabulary, a source was not measured, or source and
        target are the same gene.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> sagefm.tl.perturb(adata, sources=["CXCL13"], targets=["CXCR5", "MS4A1"], n_null=20)
    >>> scores = adata.uns["sagefm_perturb"]["scores"]
    >>> scores[["source", "target"]].to_numpy().tolist()
    [['CXCL13', 'CXCR5'], ['CXCL13', 'MS4A1']]
    """
    rng = as_seed(rng)
    run = begin(
        adata,
        model,
        TableKeys(layer, gene_key, spatial_key, library_key, neighbors_key),
        key_added=key_added,
        table_key=table_key,
        mod=mod,
        device=device,
        copy=copy,
        reserved=(UNS_KEY, f"{NEIGHBORS_KEY}_neighbors"),
    )

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
