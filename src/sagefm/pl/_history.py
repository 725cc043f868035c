"""Losses by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sagefm._arguments import shown
from sagefm.errors import ArgumentError, MissingKeyError
from sagefm.pl._tissue import get_panels

#: Grey for training, blue of the Okabe-Ito palette for validation.
_CURVES = {"train_loss": ("training", "0.45"), "validation_loss": ("validation", "#0072B2")}


def history(model_or_history: Any, *, ax: Axes | None = None) -> Axes:
    """Draw the training and validation loss by epoch, and mark the best epoch.

    Parameters
    ----------
    model_or_history
        A trained :class:`sagefm.model.SAGEFM`, or its ``history``: tables of one column, indexed by epoch.
    ax
        Axes to draw into.

    Returns
    -------
    The Axes.

    Raises
    ------
    sagefm.errors.SagefmError
        There is no loss, because the model was not trained.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.simulate(200, n_genes=300)
    >>> sagefm.model.SAGEFM.setup_anndata(adata)
    >>> model = sagefm.model.SAGEFM(adata, hidden=(64, 16))
    >>> model.train(max_epochs=5)
    >>> ax = sagefm.pl.history(model)
    """
    tables = getattr(model_or_history, "history", model_or_history)
    if not isinstance(tables, Mapping | None) or not all(
        isinstance(table, pd.DataFrame) for table in (tables or {}).values()
    ):
        raise ArgumentError(f"Found {shown(tables)}; expected a model, or its history: a DataFrame by metric.")
    tables = tables or {}
    curves = {key: tables[key].iloc[:, 0].astype(float).dropna() for key in _CURVES if key in tables}
    curves = {key: losses for key, losses in curves.items() if not losses.empty}
    if not curves:
        raise MissingKeyError(
            f"Found no losses of {list(_CURVES)} in the history, but {list(tables)}; run model.train() first."
        )

    (panel,) = get_panels(ax, 1, (3.8, 2.8))
    for key, losses in curves.items():
        name, color = _CURVES[key]
        # A line through few points would hide how few they are.
        panel.plot(losses.index, losses, color=color, label=name, marker="o" if len(losses) < 10 else "", markersize=3)
    # The best epoch is that of the curve drawn last.
    best = losses.idxmin()
    panel.axvline(best, color="0.75", linestyle=":", linewidth=1, zorder=0)
    panel.plot(best, losses[best], "o", color=color, markersize=6, markerfacecolor="white", label=f"best: epoch {best}")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set(xlabel="epoch", ylabel="loss")
    panel.legend(frameon=False, handlelength=1.2)
    panel.spines[["top", "right"]].set_visible(False)
    return panel
