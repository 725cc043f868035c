"""How well scores of pairs of genes tell planted effects from decoys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sagefm._arguments import key_name, number, shown
from sagefm.errors import ArgumentError
from sagefm.metrics._recovery import false_discovery

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PLANTED = "planted"


def couplings(edges: pd.DataFrame, truth: pd.DataFrame, *, score: str = "z", alpha: float = 0.05) -> pd.DataFrame:
    """Return how well scores of pairs of genes tell planted effects from each kind of decoy.

    Parameters
    ----------
    edges
        DataFrame with a row for each pair: ``source``, ``target``, ``effect`` (its sign is compared with the planted
        one), the column `score`, and ``pval``, as :func:`sagefm.tl.regulatory_network` writes it. A score without
        p-values has no column ``pval``. Other pairs are ignored.
    truth
        DataFrame of :func:`sagefm.datasets.simulate` or :func:`sagefm.datasets.plant`: ``source``, ``target``,
        ``strength``, ``kind``.
    score
        Column of `edges` whose absolute value ranks the pairs. Missing values rank last.
    alpha
        False discovery rate below which a pair is called. Rates are those of Benjamini and Hochberg over the pairs of
        `truth`.

    Returns
    -------
    DataFrame with a row for each kind of decoy and a row ``"all"``:

    - ``n_planted``, ``n_decoys``: numbers of pairs;
    - ``auroc``, ``average_precision``: of the planted pairs against these decoys;
    - ``called``: share of these decoys that is called (NaN, as all that follows, without p-values).

    In the row ``"all"`` alone:

    - ``fdr``: share of decoys among the called pairs (0 if none is called);
    - ``power``: share of the planted pairs that is called;
    - ``right_signs``, ``right_signs_called``: share of the planted pairs, and of those that are called, whose effect
      has the planted sign.

    Raises
    ------
    ArgumentError
        A column or a pair is missing, a pair is there twice, or there are no planted pairs or no decoys.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.simulate(200, n_genes=300)
    >>> truth = adata.uns["truth"]
    >>> edges = truth[["source", "target"]].assign(effect=truth["strength"], z=truth["strength"])
    >>> sagefm.metrics.couplings(edges, truth)["auroc"].to_dict()
    {'domain': 1.0, 'all': 1.0}
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    number(alpha, name="alpha", is_valid=lambda x: 0 < x < 1, expected="more than 0 and less than 1")
    key_name(score, name="score")
    pairs = _join(edges, truth, score)
    planted = (pairs["kind"] == _PLANTED).to_numpy()
    scores = np.nan_to_num(pairs[score].abs().to_numpy(float), nan=-1.0)
    called = false_discovery(pairs["pval"].to_numpy(float)) < alpha if "pval" in pairs else None

    rows = []
    kinds = [str(kind) for kind in pairs["kind"].unique() if kind != _PLANTED]
    for decoys in [*((pairs["kind"] == kind).to_numpy() for kind in kinds), ~planted]:
        compared = planted | decoys
        rows.append(
            {
                "n_planted": planted.sum(),
                "n_decoys": decoys.sum(),
                "auroc": roc_auc_score(planted[compared], scores[compared]),
                "average_precision": average_precision_score(planted[compared], scores[compared]),
                "called": np.nan if called is None else called[decoys].mean(),
            }
        )
    right = np.sign(pairs["effect"].to_numpy(float)) == np.sign(pairs["strength"].to_numpy(float))
    rows[-1] |= _of_called(planted, called, right) | {"right_signs": right[planted].mean()}
    return pd.DataFrame(rows, index=pd.Index([*kinds, "all"], name="decoys"))


def _of_called(
    planted: NDArray[np.bool_], called: NDArray[np.bool_] | None, right: NDArray[np.bool_]
) -> dict[str, float]:
    """Return realized false discovery rate, power, and the share of called planted pairs with the right sign."""
    if called is None:
        return dict.fromkeys(("fdr", "power", "right_signs_called"), np.nan)
    hits = planted & called
    return {
        "fdr": (called & ~planted).sum() / max(called.sum(), 1),
        "power": called[planted].mean(),
        "right_signs_called": right[hits].mean() if hits.any() else np.nan,
    }


def _join(edges: pd.DataFrame, truth: pd.DataFrame, score: str) -> pd.DataFrame:
    """Return the pairs of `truth` with their scores, or raise."""
    for name, frame, columns in (
        ("edges", edges, ["source", "target", "effect", score]),
        ("truth", truth, ["source", "target", "strength", "kind"]),
    ):
        if not isinstance(frame, pd.DataFrame):
            raise ArgumentError(f"{name} is {shown(frame)}; expected a DataFrame with the columns {columns}.")
        absent = [column for column in columns if column not in frame]
        if absent:
            raise ArgumentError(f"{name} has no column {', '.join(absent)}; found {list(frame.columns)}.")
    if _PLANTED not in set(truth["kind"]) or set(truth["kind"]) == {_PLANTED}:
        raise ArgumentError(
            f"truth holds pairs of kind {sorted(set(truth['kind']))}; expected {_PLANTED!r} ones and decoys to tell "
            f"them from, as sagefm.datasets.simulate and sagefm.datasets.plant write them."
        )
    values = edges[list(dict.fromkeys(["source", "target", "effect", score, *edges.columns.intersection(["pval"])]))]
    pairs = truth[["source", "target", "strength", "kind"]].merge(
        values, on=["source", "target"], how="left", indicator=True
    )
    twice = pairs.duplicated(["source", "target"])
    if twice.any():
        raise ArgumentError(
            f"{int(twice.sum())} pairs are there more than once, e.g. {_names(pairs[twice])}; expected one row for "
            f"each pair. Of several sections, pass the rows of one, or the combined ones."
        )
    missing = pairs["_merge"] == "left_only"
    if missing.any():
        raise ArgumentError(
            f"{int(missing.sum())} of {len(pairs)} pairs of truth are not in edges, e.g. {_names(pairs[missing])}. "
            f"Score them all: pass truth['source'] and truth['target'] to the method."
        )
    return pairs


def _names(pairs: pd.DataFrame) -> list[str]:
    return [f"{pair.source}^{pair.target}" for pair in pairs.head(3).itertuples()]
