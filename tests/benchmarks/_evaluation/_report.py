"""Markdown tables, CSV files and figures."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

COLORS = {"model": "#1b6ca8", "tl.impute": "#1b6ca8", "published": "#c0504d", "random": "#999999"}


def markdown(table: pd.DataFrame, digits: int = 3) -> str:
    """Return a table as markdown."""

    def cell(value: object) -> str:
        if isinstance(value, float):
            return "-" if pd.isna(value) else f"{value:.{digits}f}"
        return str(value)

    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + "---|" * table.shape[1]]
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines)


def show(title: str, table: pd.DataFrame, out: Path, *, file: str | None = None) -> None:
    """Print a table, and append it to ``report.md``; write it as CSV where it has a file."""
    text = f"## {title}\n\n{markdown(table)}\n"
    print(text, flush=True)
    with (out / "report.md").open("a") as stream:
        stream.write(text + "\n")
    if file:
        table.to_csv(out / file, index=False)


def _color(name: str) -> str:
    return next((color for start, color in COLORS.items() if name.startswith(start)), "#b8c4ce")


def plot_recovery(table: pd.DataFrame, out: Path) -> None:
    """Draw residual r and pooled D2 of every predictor, a column a share of hidden genes."""
    import matplotlib.pyplot as plt

    hidden = sorted(table["n_hidden"].unique())
    figure, axes = plt.subplots(
        2,
        len(hidden),
        figsize=(4.2 * len(hidden), 0.5 * table["predictor"].nunique() + 1.5),
        sharey=True,
        squeeze=False,
    )
    for j, n in enumerate(hidden):
        rows = table[table["n_hidden"] == n].iloc[::-1]
        for i, (column, title) in enumerate((("r", "residual r"), ("pooled_d2", "pooled D2"))):
            ax = axes[i, j]
            ax.barh(rows["predictor"], rows[column], color=[_color(name) for name in rows["predictor"]])
            ax.axvline(0, color="black", linewidth=0.6)
            # Some controls fall far below the null; the axis is for the others.
            ax.set_xlim(left=max(rows[column].min(), -0.1) if rows[column].min() < 0 else 0)
            ax.set_xlabel(title)
            ax.tick_params(axis="y", labelsize=7)
            ax.spines[["top", "right"]].set_visible(False)
            if i == 0:
                ax.set_title(f"{n} of {max(hidden)} folds hidden", fontsize=10)
    figure.tight_layout()
    figure.savefig(out / "recovery.png", dpi=150)
    plt.close(figure)


def plot_clustering(table: pd.DataFrame, out: Path) -> None:
    """Draw the adjusted Rand index of every embedding, a point a section."""
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(table["embedding"]))[::-1]
    figure, ax = plt.subplots(figsize=(5.5, 0.4 * len(names) + 1.2))
    means = table.groupby("embedding")["ari"].mean()
    ax.barh(names, means[names], color=[_color(name) for name in names], alpha=0.6)
    for i, name in enumerate(names):
        values = table.loc[table["embedding"] == name, "ari"]
        ax.plot(values, [i] * len(values), "o", color="black", markersize=3, alpha=0.6)
    ax.set_xlabel("adjusted Rand index")
    ax.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(out / "clustering.png", dpi=150)
    plt.close(figure)
