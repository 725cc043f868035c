"""Effects of known size planted into a real section, to measure power and false discoveries on one's own tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from sagefm._arguments import as_seed, whole_number
from sagefm._constants import SPATIAL_KEY
from sagefm.data._blocks import take_columns, to_memory
from sagefm.data._counts import get_counts, log_normalize
from sagefm.data._genes import get_gene_names
from sagefm.data._graph import averaging, get_neighbors, with_library_key
from sagefm.data._table import TableKeys, find_spots, get_table
from sagefm.data._turns import TURNS, turned_spots
from sagefm.errors import ArgumentError, GenesError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sagefm.data._table import Spots

_SCALE = 1e4  # counts that a spot is brought to
_CLIP = 2.0  # standard deviations of a neighborhood mean
_MIN_SHARE = 0.1  # of the spots that a drawn gene is seen in
_MAX_LOG = 2.0
#: A turned field that still has this correlation with itself belongs to symmetric tissue.
_MAX_CORRELATION = 0.3


def plant(
    adata: Any,
    pairs: pd.DataFrame | None = None,
    strength: float = 0.5,
    *,
    n_effects: int = 20,
    n_decoys: int = 20,
    layer: str | None = None,
    gene_key: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    library_key: str | None = None,
    neighbors_key: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    rng: int | np.random.Generator = 0,
) -> AnnData:
    r"""Return a section with planted effects of the neighbors on the center, by thinning the counts of the targets.

    Everything else about the section stays as it is: its tissue, its depth and its other genes. So a method's power and
    its false discoveries can be measured on one's own tissue.

    Parameters
    ----------
    adata, layer, gene_key, spatial_key, library_key, neighbors_key, table_key, mod
        As in :func:`sagefm.tl.embed`. Nothing is written to `adata`.
    pairs
        DataFrame with columns ``source`` and ``target``, and with an optional column ``strength`` (signed; 0 leaves the
        pair as it is). Default: draw different genes, all seen in at least 10 % of the spots.
    strength
        Change of the target's log rate for one standard deviation of the source's neighborhood mean, at most 2 either
        way. The signs of drawn pairs alternate.
    n_effects
        Number of pairs to draw and to plant, without `pairs`.
    n_decoys
        Number of pairs to draw of each of two kinds of decoys, without `pairs`: ``"rotated"`` and ``"absent"``.
    rng
        Seed or generator.

    Returns
    -------
    AnnData
        A new object with ``obs``, ``var``, ``obsm``, ``obsp`` and ``uns`` of the table, and

        - ``X``: the counts with the effects, CSR float32. There are no layers.
        - ``uns["truth"]``: DataFrame with one row per pair: ``source``, ``target``, ``strength`` (signed; 0 for
          decoys), ``kind`` ("planted", "rotated" or "absent"), as in :func:`sagefm.datasets.simulate`.
        - ``obsp["sagefm_connectivities"]``, ``obsp["sagefm_distances"]``, ``uns["sagefm_neighbors"]``: the graph, if
          the table had none.

    Raises
    ------
    sagefm.errors.SagefmError
        Counts, coordinates or libraries cannot be used; a gene is not in the table, or too few can be drawn; `pairs`
        holds a pair twice, a gene paired with itself, or a gene that is the source of one effect and the target of
        another; or an argument is outside its range.

    Notes
    -----
    Count :math:`y_{it}` of target :math:`t` at spot :math:`i` becomes a binomial draw,

    .. math::

        y'_{it} \sim \text{Binomial}\big(y_{it}, \, p_i\big), \qquad
        p_i = \exp(\text{strength} \; m_i - \textstyle\max_j \text{strength} \; m_j),

    where :math:`m` is the mean of the source's :math:`\log(1 + 10^4 x / \text{total})` over the 14 nearest spots,
    without the spot itself, standardized within its library and clipped at :math:`\pm 2`. Counts never grow: at
    strength 0.5, a target loses more than half of them. Several effects on one target are multiplied.

    ``"rotated"`` pairs show what the loss of counts does by itself. Their targets are thinned just as strongly, but by
    the field :math:`m` of the source turned on the tissue by 90, 180 or 270 degrees, or mirrored. Turns after which the
    field still correlates with itself by more than 0.3 are not taken. ``"absent"`` pairs are left as they are. What
    genes had in common before stays in all pairs: random genes are seldom coupled, but nobody knows that they are not.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> planted = sagefm.datasets.plant(adata, n_effects=5, n_decoys=5)
    >>> planted.uns["truth"]["kind"].value_counts().to_dict()
    {'planted': 5, 'rotated': 5, 'absent': 5}
    """
    table = get_table(adata, table_key=table_key, mod=mod)
    keys = with_library_key(table, TableKeys(layer, gene_key, spatial_key, library_key, neighbors_key))
    spots = find_spots(adata, table, keys)
    counts = to_memory(get_counts(table, layer))
    # Of several columns of one gene, the first.
    columns = {name: i for i, name in reversed(list(enumerate(get_gene_names(table, gene_key))))}
    _check_strength(strength)
    if not isinstance(rng, np.random.Generator):
        rng = np.random.default_rng(as_seed(rng))
    if pairs is None:
        effects = _draw_pairs(counts, columns, strength, n_effects, n_decoys, rng)
    else:
        effects = _check_pairs(pairs, columns, strength)

    planted = AnnData(obs=table.obs, var=table.var, obsm=table.obsm, obsp=table.obsp, uns=table.uns).copy()
    operator = averaging(get_neighbors(planted, keys, spots), with_center=False)
    planted.X = _thin(counts, operator, effects, columns, spots, rng)
    is_planted = effects["kind"] == "planted"
    planted.uns["truth"] = effects.assign(strength=effects["strength"].where(is_planted, 0.0))
    return planted


def _thin(
    counts: sparse.csr_matrix,
    operator: sparse.csr_matrix,
    effects: pd.DataFrame,
    columns: dict[str, int],
    spots: Spots,
    rng: np.random.Generator,
) -> sparse.csr_matrix:
    """Return counts with those of the targets thinned (n_spots, n_genes)."""
    effects = effects[effects["kind"] != "absent"]
    sources = effects["source"].unique()
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    levels = log_normalize(take_columns(counts, np.array([columns[s] for s in sources], np.int64)), _SCALE, totals)
    around = dict(zip(sources, (operator @ levels).T.tocsr(), strict=True))
    turned = _turned_spots(spots) if (effects["kind"] == "rotated").any() else None

    by_gene = counts.tocsc(copy=True)
    for target, rows in effects.groupby("target", sort=False):
        log_share = np.zeros(counts.shape[0])
        for effect in rows.itertuples():
            field = _standardize(around[effect.source].toarray().ravel(), spots.libraries)
            if effect.kind == "rotated" and turned is not None:
                field = _standardize(_turn(field, turned, rng), spots.libraries)
            change = effect.strength * np.clip(field, -_CLIP, _CLIP)
            log_share += change - change.max()
        entries = slice(by_gene.indptr[columns[target]], by_gene.indptr[columns[target] + 1])
        share = np.exp(log_share[by_gene.indices[entries]])
        by_gene.data[entries] = rng.binomial(by_gene.data[entries].astype(np.int64), share)
    thinned = by_gene.tocsr()
    thinned.eliminate_zeros()
    return thinned


def _standardize(values: NDArray[np.floating], libraries: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return values with mean 0 and variance 1 in each library; 0 where they do not vary (n_spots,)."""
    sizes = np.bincount(libraries)
    centered = values - (np.bincount(libraries, values) / sizes)[libraries]
    sd = np.sqrt(np.bincount(libraries, centered**2) / sizes)[libraries]
    return np.divide(centered, sd, out=np.zeros(len(values)), where=sd > 0)


def _turned_spots(spots: Spots) -> NDArray[np.int64]:
    """Return the spot that each turn and mirror image of its library brings to each spot (7, n_spots)."""
    turned = np.empty((len(TURNS), len(spots.libraries)), dtype=np.int64)
    for code in range(len(spots.names)):
        rows = np.flatnonzero(spots.libraries == code)
        turned[:, rows] = rows[turned_spots(spots.coordinates[rows])[0]]
    return turned


def _turn(field: NDArray[np.float64], turned: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a field turned at random, such that it does not resemble itself (n_spots,)."""
    correlation = np.abs(np.corrcoef(field, field[turned])[0, 1:])
    allowed = np.flatnonzero(correlation <= max(_MAX_CORRELATION, correlation.min()))
    return field[turned[rng.choice(allowed)]]


def _draw_pairs(
    counts: sparse.csr_matrix,
    columns: dict[str, int],
    strength: float,
    n_effects: int,
    n_decoys: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Return random pairs with kind and the strength at which their targets are thinned."""
    if strength == 0:
        raise ArgumentError("strength=0; expected another for pairs that are drawn, or pairs of your own.")
    n_effects = whole_number(n_effects, name="n_effects", minimum=0)
    n_decoys = whole_number(n_decoys, name="n_decoys", minimum=0)
    seen = np.bincount(counts.indices[counts.data > 0], minlength=counts.shape[1])
    candidates = [name for name, i in columns.items() if seen[i] >= _MIN_SHARE * counts.shape[0]]
    n_pairs = n_effects + 2 * n_decoys
    if 2 * n_pairs > len(candidates):
        raise ArgumentError(
            f"n_effects={n_effects} and n_decoys={n_decoys} take {2 * n_pairs} genes, a source and a target for each "
            f"pair of three kinds; found {len(candidates)} seen in at least {_MIN_SHARE:.0%} of the spots. Pass fewer."
        )
    genes = rng.choice(np.sort(np.array(candidates, dtype=object)), 2 * n_pairs, replace=False)
    strengths = strength * (-1.0) ** np.arange(n_pairs)
    strengths[n_effects + n_decoys :] = 0.0
    return pd.DataFrame(
        {
            "source": genes[:n_pairs],
            "target": genes[n_pairs:],
            "strength": strengths,
            "kind": np.repeat(["planted", "rotated", "absent"], [n_effects, n_decoys, n_decoys]).astype(object),
        },
        index=[str(i) for i in range(n_pairs)],
    )


def _check_pairs(pairs: pd.DataFrame, columns: dict[str, int], strength: float) -> pd.DataFrame:
    """Return a user's pairs with strength and kind, or raise."""
    if not isinstance(pairs, pd.DataFrame) or not {"source", "target"} <= set(pairs) or not len(pairs):
        found = list(pairs) if isinstance(pairs, pd.DataFrame) else type(pairs).__name__
        raise ArgumentError(f"pairs: found {found}; expected a DataFrame of pairs with columns source and target.")
    effects = pairs[["source", "target"]].astype(str).astype(object).set_axis([str(i) for i in range(len(pairs))])
    unknown = sorted(set(effects.to_numpy().ravel()) - set(columns))
    if unknown:
        raise GenesError(f"pairs: not among the genes of the table: {unknown[:5]} ({len(unknown)} in all).")
    if effects.duplicated().any() or (effects["source"] == effects["target"]).any():
        raise ArgumentError("pairs holds a pair twice or a gene paired with itself. Call pairs.drop_duplicates().")
    strengths = pairs["strength"] if "strength" in pairs else [strength] * len(pairs)
    for value in strengths:
        _check_strength(value)
    effects["strength"] = np.asarray(strengths, dtype=float)
    effects["kind"] = np.where(effects["strength"] != 0, "planted", "absent").astype(object)
    planted = effects[effects["kind"] == "planted"]
    both = sorted(set(planted["source"]) & set(planted["target"]))
    if both:
        raise ArgumentError(
            f"pairs: {both[:5]} are sources of effects and targets of others ({len(both)} in all); to thin a target "
            f"changes what it does as a source. Leave some of these pairs out."
        )
    return effects


def _check_strength(strength: object) -> None:
    is_number = isinstance(strength, int | float | np.number) and not isinstance(strength, bool)
    if not is_number or not -_MAX_LOG <= strength <= _MAX_LOG:  # type: ignore[operator]
        raise ArgumentError(f"strength={strength!r}; expected -{_MAX_LOG:g} to {_MAX_LOG:g}, in natural-log units.")
