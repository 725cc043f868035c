"""``sagefm.tl.perturb``."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sagefm._constants import NEIGHBORS_KEY, PERTURB_KEY, SPATIAL_KEY, UNS_KEY
from sagefm.data._labels import read_labels
from sagefm.data._table import TableKeys, get_column
from sagefm.inference._intervention import Intervention
from sagefm.inference._pairs import check_pairs, consensus_pairs
from sagefm.inference._perturb_table import perturb_table
from sagefm.tl._common import begin, provenance

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
    where: Literal["neighborhood", "center", "both"] = "neighborhood",
    levels: int | Sequence[float] | Literal["knockout"] = 5,
    scale: Literal["range", "quantile", "fold"] = "range",
    groupby: str | None = None,
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
    n_null: int | None = None,
    rng: int | np.random.Generator | None = None,
) -> Any:
    """Change a gene around every spot, and predict other genes at the spot itself (the center).

    By default, each source is set, in the neighbors of a spot, to evenly spaced levels from its lowest to its highest
    value in the data; the targets are hidden at the spot and predicted (Zhan et al. 2026).

    The effect of a pair is what the *network* has learned about genes in neighboring spots: an association, not a
    measured causal effect. Beside it stands the coupling of the pair, which is measured on the section and tested.

    Parameters
    ----------
    adata, model, layer, gene_key, spatial_key, library_key, neighbors_key, table_key, mod, batch_size, device, progress, copy
        As in :func:`sagefm.tl.embed`.
    pairs
        DataFrame with columns ``source`` and ``target``; or ``"consensus"``: LIANA's consensus ligand-receptor pairs, as
        far as all genes of the source were measured and the model knows those of the target (needs
        ``pip install liana``, which is GPL-3). A source or target is a gene, or a complex of subunits joined by ``_``,
        such as ``"ITGAV_ITGB3"``: all subunits of a source are set, each to its own levels; a target is as abundant as
        its least abundant subunit.
    sources, targets
        Instead of `pairs`: test all combinations of these genes or complexes.
    where
        Where the source is changed: in the neighbors of a spot (``"neighborhood"``), in the spot's own counts
        (``"center"``), or in both. Targets are predicted at the spot in all three. The published network gives the spot
        and its neighbors the same weights.
    levels
        Number of levels that a source is set to; or, depending on `scale`, a sequence of quantiles or of factors; or
        ``"knockout"``, the factors (1, 0).
    scale
        What the levels are. ``"range"``: evenly spaced, from the lowest to the highest value in the data (the paper).
        ``"quantile"``: quantiles of its values in the data; a number of levels stands for evenly spaced quantiles from
        0.05 to 0.95. A gene that few spots show has the same value at most quantiles. ``"fold"``: factors that its
        counts are multiplied by, at each spot; a spot without the gene stays without it. In all three, the total
        counts of a spot stay as measured.
    groupby
        Column of ``adata.obs``, such as domains or libraries: also average the effects over the spots of each group.
    per_spot
        Also write the effect at every spot.
    key_added
        Key of the result.
    n_null, rng
        Not used: effects are no longer compared with effects on random genes.

        .. deprecated:: 0.2
            Leave them out, and read ``coupling``, ``pval`` and ``qval`` of the scores instead of ``z``.

    Returns
    -------
    None, or the copy. Sets the following fields:

    ``adata.uns[key_added]["scores"]``
        DataFrame with a row for each pair: ``source``, ``target``; ``effect``, the mean over spots of the prediction at
        the last level minus that at the first; ``slope``, the change of the mean prediction per unit of level;
        ``rho``, the mean over spots of the rank correlation between level and prediction; ``coupling``, the change of
        the target's log rate at a spot per standard deviation of the source in the neighbors, given the other genes, and
        its standard error ``coupling_se``; ``pval`` (two-sided) of the coupling, and ``qval``, adjusted over the pairs
        (Benjamini-Hochberg); ``n_spots``. Couplings do not depend on `model`, `where`, `levels` and `scale`; they are those of
        :func:`sagefm.tl.regulatory_network`, and NaN where a target was not measured, or a gene or complex has no counts.
    ``adata.uns[key_added]["curves"]``
        DataFrame of dose-response curves, with a row for each pair and level. It describes the prediction minus that at
        the first level, over spots: its ``mean``, and ``low`` and ``high``, its 10 % and 90 % quantiles. The level of a
        complex is that of its lowest subunit.
    ``adata.uns[key_added]["groups"]``
        With `groupby`: DataFrame with a row for each pair and group: ``source``, ``target``, ``group``, ``effect``, the
        mean over the group's spots, and ``n_spots``.
    ``adata.uns[key_added]["params"]``
        Parameters, units and provenance.
    ``adata.obsm[key_added]``
        With `per_spot`: DataFrame of effects (n_spots, n_pairs), columns ``"SOURCE^TARGET"``.
    ``adata.obsp["sagefm_connectivities"]``, ``adata.obsp["sagefm_distances"]``, ``adata.uns["sagefm_neighbors"]``
        The graph, if this call built it.

    Raises
    ------
    sagefm.errors.SagefmError
        As in :func:`sagefm.tl.embed`; or a gene is not in the vocabulary, a source was not measured, source and target
        have a gene in common, the levels do not fit their scale, or `groupby` is not a column.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> sagefm.tl.perturb(adata, sources=["CXCL13"], targets=["CXCR5", "TGFBR1_TGFBR2"])
    >>> scores = adata.uns["sagefm_perturb"]["scores"]
    >>> scores[["source", "target"]].to_numpy().tolist()
    [['CXCL13', 'CXCR5'], ['CXCL13', 'TGFBR1_TGFBR2']]

    A knock-out at the spots themselves, by annotated region:

    >>> knockout = {"where": "center", "levels": "knockout", "groupby": "label"}
    >>> sagefm.tl.perturb(adata, sources=["CXCL13"], targets=["CXCR5"], **knockout)
    >>> adata.uns["sagefm_perturb"]["groups"].columns.tolist()
    ['source', 'target', 'group', 'effect', 'n_spots']
    """
    if n_null is not None or rng is not None:
        warnings.warn(
            "n_null and rng of sagefm.tl.perturb do nothing, and will be an error in 0.3: leave them out. Effects are no "
            "longer compared with effects on random genes; the scores' columns coupling, pval and qval say whether a pair "
            "is coupled on the section itself.",
            FutureWarning,
            stacklevel=2,
        )
    intervention = Intervention.of(where, levels, scale)
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

    labels = None
    if groupby is not None:
        column = get_column(run.table, groupby, argument="groupby")
        labels = read_labels(column, (), name=f"adata.obs[{groupby!r}]")
    if isinstance(pairs, str):
        pairs = consensus_pairs(pairs, run.checkpoint.vocabulary, run.reader.match.genes)
    result = perturb_table(
        run.reader,
        run.checkpoint,
        check_pairs(run.reader, run.checkpoint, pairs, sources, targets),
        intervention=intervention,
        labels=labels,
        per_spot=per_spot,
        device=run.device,
        batch_size=batch_size,
        progress=progress,
    )
    params = {
        "where": where,
        "levels": levels if np.ndim(levels) == 0 else np.asarray(levels),
        "scale": intervention.scale,
        "level_unit": result.level_unit,
        "response_unit": result.response_unit,
    }
    written = {"scores": result.scores, "curves": result.curves}
    if groupby is not None:
        written["groups"], params["groupby"] = result.groups, groupby
    run.table.uns[key_added] = {**written, "params": provenance(run, params)}
    # An earlier call may have left effects of other pairs.
    run.table.obsm.pop(key_added, None)
    if per_spot:
        run.table.obsm[key_added] = result.per_spot
    return run.data if copy else None
