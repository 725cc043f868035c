"""From results to what a page says: rows of its tables, figures in its sentences, and its pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sagefm._constants import DOMAIN_KEY, EMBEDDING_KEY, IMPUTED_KEY, NETWORK_KEY
from sagefm._report import _figures as figures
from sagefm._report._analysis import DULL, Results, coupled_genes
from sagefm.data._table import entry
from sagefm.pl._embedding import PALETTE

if TYPE_CHECKING:
    from sagefm._report._sections import Section

#: Rows of a page's tables; genes that its maps show; markers of each domain among the dots.
_N_TRUSTED, _N_COUPLINGS, _N_MAPS, _N_DOTS = 20, 12, 3, 2
_CERTAIN, _ALPHA, _HIGH_MITOCHONDRIAL, _SHALLOW = 0.95, 0.05, 0.3, 0.1
#: Panels of sections that are drawn.
_MAX_PANELS = 12


def describe_quality(sections: list[Section]) -> tuple[list[dict[str, Any]], list[figures.Picture]]:
    """Return depth, genes and mitochondrial share of each section, and their pictures; nothing without counts."""
    if any(section.counts is None for section in sections):
        return [], []
    rows = []
    for section in sections:
        totals, mitochondrial = section.totals, section.mitochondrial
        low, median, high = np.quantile(totals, [0.05, 0.5, 0.95])
        rows.append(
            {
                "name": section.name, "low": low, "median": median, "high": high,
                "median_genes": int(np.median(section.n_genes)),
                "mitochondrial": None if mitochondrial is None else float(np.median(mitochondrial)),
                "n_high": 0 if mitochondrial is None else int((mitochondrial > _HIGH_MITOCHONDRIAL).sum()),
                "n_shallow": int((totals < _SHALLOW * median).sum()),
            }
        )  # fmt: skip
    if len(sections) > 1:
        return rows, _compare_depth(sections)
    try:
        return rows, _depth_on_tissue(sections[0])
    except (KeyError, ValueError):
        # Without coordinates, which stand among the findings.
        return rows, []


def _compare_depth(sections: list[Section]) -> list[figures.Picture]:
    totals = {section.name: section.totals for section in sections}
    genes = {section.name: section.n_genes for section in sections}
    said = lambda values: "; ".join(f"{name}: median {np.median(numbers):,.0f}" for name, numbers in values.items())
    return [
        figures.draw_histogram(totals, "Counts per spot", f"Counts per spot by section. {said(totals)}.", label="counts", colors=PALETTE, log=True),
        figures.draw_histogram(genes, "Genes per spot", f"Genes per spot by section. {said(genes)}.", label="genes", colors=PALETTE),
    ]  # fmt: skip


def _depth_on_tissue(section: Section) -> list[figures.Picture]:
    totals, n_genes, share = section.totals, section.n_genes, section.mitochondrial
    pictures = [] if section.image is None else [figures.draw_tissue(section)]
    pictures += [
        figures.draw_values(
            section, totals, "Counts per spot", f"Map of counts per spot, median {np.median(totals):,.0f}."
        ),
        figures.draw_values(
            section, n_genes, "Genes per spot", f"Map of genes per spot, median {np.median(n_genes):,.0f}."
        ),
    ]
    if share is not None:
        alt = f"Map of the share of mitochondrial counts, median {np.median(share):.1%}."
        pictures.append(figures.draw_values(section, 100 * share, "Mitochondrial share, %", alt, cmap="magma"))
    return pictures


def describe_domains(results: Results, colors: dict[str, str]) -> dict[str, Any] | None:
    """Return the domains, their markers and their pictures."""
    joint = results.joint
    if joint is None or "domains" in results.problems:
        return None
    domains = results.domains
    probability = joint.table.obs.get(f"{DOMAIN_KEY}_probability", pd.Series(1.0, domains.index)).to_numpy()
    by_section = (
        joint.table.obs["section"] if len(results.sections) > 1 else pd.Series(results.sections[0].name, domains.index)
    )
    shares = pd.crosstab(by_section, domains, normalize="index").reindex([s.name for s in results.sections])
    rows = []
    for name, color in colors.items():
        inside = (domains == name).to_numpy()
        own = [] if results.markers is None else results.markers[results.markers["domain"] == name].to_dict("records")
        rows.append(
            {
                "name": name, "color": color, "n_spots": int(inside.sum()), "share": inside.mean(),
                "certain": float((probability[inside] > _CERTAIN).mean()) if inside.any() else 0.0,
                "markers": own, "shares": shares[name].tolist() if name in shares else [],
            }
        )  # fmt: skip
    several = len(results.sections) > 1
    return {
        "rows": rows,
        "is_chosen": bool(entry(joint.table, DOMAIN_KEY, "params").get("is_chosen", False)),
        "certain": float((probability > _CERTAIN).mean()),
        "n_shared": int((shares > 0).all().sum()),
        "pictures": [
            figures.draw_domains(section, colors, title=section.name if several else "Domains")
            for section in results.sections[:_MAX_PANELS]
        ],
        "shares": figures.draw_shares(shares, colors, _say_shares(shares)) if several else None,
        "dots": _dots(results),
        "csv": results.markers,
    }


def _say_shares(shares: pd.DataFrame) -> str:
    parts = [
        f"{name}: " + ", ".join(f"domain {key} {value:.0%}" for key, value in row.items() if value > 0)
        for name, row in shares.iterrows()
    ]
    return "Shares of domains. " + "; ".join(parts) + "."


def _dots(results: Results) -> figures.Picture | None:
    """Return the markers' means and shares by domain, as dots."""
    joint, markers = results.joint, results.markers
    if joint is None or joint.counts is None or markers is None or markers.empty:
        return None
    genes = list(dict.fromkeys(markers.groupby("domain", sort=False).head(_N_DOTS)["gene"]))
    columns = pd.Index(joint.symbols.astype(str)).get_indexer_for(genes)[: len(genes)]
    counts = joint.counts[:, columns].toarray()
    rates = pd.DataFrame(
        np.log1p(counts / np.maximum(joint.totals, 1)[:, None] * np.median(joint.totals)), columns=genes
    )
    codes = results.domains.to_numpy()
    means = rates.groupby(codes, observed=True).mean().T
    shares = pd.DataFrame(counts > 0, columns=genes).groupby(codes, observed=True).mean().T
    order = [name for name in results.domains.cat.categories if name in means]
    means, shares = means[order], shares[order]
    means = means.div(means.max(axis=1).clip(lower=1e-9), axis=0)
    lists = "; ".join(
        f"domain {name}: {', '.join(part['gene'].head(_N_DOTS))}"
        for name, part in markers.groupby("domain", sort=False)
    )
    return figures.draw_dots(means, shares, f"Dots of marker genes by domain. {lists}.")


def describe_embedding(results: Results, colors: dict[str, str]) -> dict[str, Any] | None:
    """Return the map of embeddings, and the embedding on tissue."""
    if results.umap is None:
        return None
    xy, rows = results.umap
    pictures = []
    n_latent = results.sections[0].table.obsm[EMBEDDING_KEY].shape[1]
    names = np.repeat(
        [section.name for section in results.sections], [section.table.n_obs for section in results.sections]
    )
    if len(results.sections) > 1:
        by_name = {section.name: PALETTE[i % len(PALETTE)] for i, section in enumerate(results.sections)}
        listed = ", ".join(by_name)
        alt = f"UMAP of the embeddings of {len(rows):,} spots, colored by section: {listed}."
        pictures.append(figures.draw_scatter(xy, pd.Series(names[rows]), by_name, "By section", alt))
    if colors:
        alt = f"UMAP of the embeddings of {len(rows):,} spots, colored by domain."
        pictures.append(figures.draw_scatter(xy, pd.Series(results.domains.to_numpy()[rows]), colors, "By domain", alt))
    if len(results.sections) == 1:
        pictures.append(figures.draw_embedding(results.sections[0]))
    return {"n_latent": n_latent, "pictures": pictures, "n_shown": len(rows), "is_sample": len(rows) < len(names)}


def describe_imputation(results: Results) -> dict[str, Any] | None:
    """Return which genes were imputed, and which of them are recovered."""
    if "imputation" in results.problems:
        return None
    tables = [_recovery(section) for section in results.sections]
    rows: list[dict[str, Any]] = [
        {"name": section.name, "n": len(table), "n_recovered": int((table["q"] < _ALPHA).sum()), "median": float(table["r"].median())}
        for section, table in zip(results.sections, tables, strict=True)
    ]  # fmt: skip
    shared = tables[0]
    for table in tables[1:]:
        both = shared.index.intersection(table.index)
        shared = pd.DataFrame(
            {
                name: getattr(np, how)([shared.loc[both, name], table.loc[both, name]], axis=0)
                for name, how in (("r", "min"), ("q", "max"), ("detected", "min"))
            }, index=both,
        )  # fmt: skip
    recovered = shared[shared["q"] < _ALPHA].sort_values("r", ascending=False)
    if "trust" in recovered:
        recovered = recovered[recovered["trust"].astype(str) == "good"]
    is_dull = recovered.index.str.contains(DULL)
    named = recovered[~is_dull]
    best = max(rows, key=lambda row: row["n_recovered"])
    several = len(results.sections) > 1
    everything = pd.concat(
        [table.assign(section=section.name) for section, table in zip(results.sections, tables, strict=True)]
    )
    everything = everything if several else everything.drop(columns="section")
    return {
        "n_imputed": best["n"], "n_recovered": best["n_recovered"], "median": best["median"], "sections": rows,
        "n_dull": int(is_dull.sum()),
        "trusted": named.head(_N_TRUSTED).rename_axis("gene").reset_index().to_dict("records"),
        "has_trust": "trust" in recovered,
        "pictures": _compare_recovery(results, tables) if several else _imputed_maps(results, named),
        "csv": everything.sort_values("r", ascending=False, kind="stable").rename_axis("gene").reset_index(),
    }  # fmt: skip


def _recovery(section: Section) -> pd.DataFrame:
    """Return r, q and, where it was computed, trust of each imputed gene by its symbol."""
    var = section.table.var
    columns = {name: f"{IMPUTED_KEY}_{name}" for name in ("r", "q", "trust") if f"{IMPUTED_KEY}_{name}" in var}
    table = pd.DataFrame(
        {name: var[column].to_numpy() for name, column in columns.items()}, index=section.symbols.astype(str)
    )
    table["detected"] = section.detected
    table = table[var[IMPUTED_KEY].to_numpy(dtype=bool)].dropna(subset=["r"])
    return table[~table.index.duplicated()]


def map_genes(results: Results, recovered: pd.DataFrame | None = None) -> list[str]:
    """Return the genes that maps show: markers that are recovered best, one of each domain, then other recovered ones."""
    recovered = _recovered(results) if recovered is None else recovered
    markers = pd.DataFrame(columns=["domain", "gene"]) if results.markers is None else results.markers
    known = markers[markers["gene"].isin(recovered.index)]
    known = known.assign(r=recovered["r"].reindex(known["gene"]).to_numpy()).sort_values("r", ascending=False)
    first = known.drop_duplicates("domain").drop_duplicates("gene")["gene"].tolist()
    return list(dict.fromkeys([*first, *recovered.index]))


def _recovered(results: Results) -> pd.DataFrame:
    if "imputation" in results.problems:
        return pd.DataFrame({"r": []})
    table = _recovery(results.sections[0])
    table = table[(table["q"] < _ALPHA) & ~table.index.str.contains(DULL)]
    return table.sort_values("r", ascending=False)


def _imputed_maps(results: Results, recovered: pd.DataFrame) -> list[list[figures.Picture]]:
    """Return the best markers, each as measured and as imputed."""
    section = results.sections[0]
    symbols = list(map(str, section.symbols))
    pairs = []
    is_log = section.table.uns["sagefm"][IMPUTED_KEY].get("scale", "counts") != "counts"
    for gene in map_genes(results, recovered)[:_N_MAPS]:
        i = symbols.index(gene)
        measured = np.log1p(section.counts[:, i].toarray().ravel())  # type: ignore[index]
        layer = section.table.layers[IMPUTED_KEY][:, [i]]
        values = np.asarray(layer.toarray() if hasattr(layer, "toarray") else layer, dtype=float).ravel()
        r = recovered.loc[gene, "r"]
        pair = [
            figures.draw_values(section, measured, f"{gene}, measured", f"Map of measured {gene}.", cmap="magma"),
            figures.draw_values(section, values if is_log else np.log1p(values), f"{gene}, imputed (r = {r:.2f})", f"Map of imputed {gene}, r = {r:.2f}.", cmap="magma"),
        ]  # fmt: skip
        pairs.append(pair)
    return pairs


def _compare_recovery(results: Results, tables: list[pd.DataFrame]) -> list[figures.Picture]:
    values = {section.name: table["r"].to_numpy() for section, table in zip(results.sections, tables, strict=True)}
    medians = "; ".join(f"{name}: median {np.median(r):.3f}" for name, r in values.items())
    return [
        figures.draw_histogram(
            values,
            "Recovery r of genes",
            f"Recovery of genes by section. {medians}.",
            label="r",
            colors=PALETTE,
        )
    ]


def describe_couplings(results: Results, *, is_default: bool) -> dict[str, Any] | None:
    """Return the strongest couplings, with the smallest effects that would have been found."""
    joint = results.joint
    if joint is None or "couplings" in results.problems:
        return None
    result = joint.table.uns[NETWORK_KEY]
    edges = result["edges"]
    shown = edges[edges["library"] == "combined"] if "library" in edges else edges
    # A pair that was tested both ways has no direction: the one with the smaller p-value.
    names = pd.Series([tuple(sorted(pair)) for pair in zip(shown["source"], shown["target"], strict=True)], shown.index)
    strongest = shown[~names.duplicated() & (shown["source"] != shown["target"])].head(_N_COUPLINGS)
    strongest = strongest.assign(
        low=strongest["effect"] - 1.96 * strongest["se"], high=strongest["effect"] + 1.96 * strongest["se"]
    )
    said = "; ".join(
        f"{pair.source} and {pair.target}: {pair.effect:.3f}, q = {pair.qval:.2g}" for pair in strongest.itertuples()
    )
    rows = shown.head(1000)
    # Of genes that were tested both ways, a pair counts once.
    n_ways = 2 if is_default and "couplings" not in results.reused else 1
    significant = names[shown["qval"] < _ALPHA]
    return {
        "n_pairs": int(result["params"]["n_pairs"]) // n_ways,
        "n_significant": int(significant.nunique() if n_ways == 2 else len(significant)),
        "genes": pd.DataFrame({"gene": coupled_genes(joint)}) if is_default else None,
        "is_default": is_default and "couplings" not in results.reused,
        "detectable": float(shown["detectable_effect"].median()) if len(shown) else float("nan"),
        "rows": strongest.to_dict("records"),
        "picture": figures.draw_effects(strongest, f"Effects of the strongest couplings. {said}.")
        if len(strongest)
        else None,
        "csv": rows if len(rows) else None,
        "csv_says": f"The {len(rows):,} pairs with the smallest p-values" if len(rows) < len(shown) else "All pairs",
    }
