"""From results to a page: all that the template shows, and the template filled in."""

from __future__ import annotations

import base64
import re
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import sagefm
from sagefm._constants import DOMAIN_KEY
from sagefm._report import _facts as facts
from sagefm._report._calls import part_calls
from sagefm._report._figures import colors_of
from sagefm._report._map import MAX_SPOTS, map_data, to_script
from sagefm.pl._embedding import PALETTE

if TYPE_CHECKING:
    import pandas as pd

    from sagefm._report._analysis import Request, Results
    from sagefm.data._table import TableKeys

TEMPLATES = files("sagefm._report") / "templates"
_PACKAGES = ("anndata", "scanpy", "numpy", "scipy", "torch", "umap-learn", "matplotlib")
#: Genes that the map offers as measured, and as imputed.
_MAP_GENES, _MAP_IMPUTED = 24, 8
#: Parts of a page: the id of the heading, and its name in the list of contents.
_CONTENTS = {
    "input": "What was read",
    "quality": "Depth and quality",
    "domains": "Domains",
    "embedding": "Embedding",
    "imputation": "Imputed genes",
    "couplings": "Couplings",
    "limits": "Limits",
    "methods": "How it was made",
}


def page_facts(results: Results, request: Request, keys: TableKeys) -> dict[str, Any]:
    """Return what the template shows, but for title and provenance."""
    sections, joint = results.sections, results.joint
    several = len(sections) > 1
    has_domains = joint is not None and results.has("domains")
    colors = (
        colors_of(results.domains, joint.table.uns.get(f"{DOMAIN_KEY}_colors", ())) if has_domains and joint else {}
    )
    quality, quality_pictures = facts.describe_quality(sections)
    domains = facts.describe_domains(results, colors)
    imputation = facts.describe_imputation(results)
    is_default = request.sources is None or request.targets is None
    couplings = facts.describe_couplings(results, is_default=is_default)
    findings = [
        {"section": section.name, **{name: getattr(finding, name) for name in ("severity", "repair")}, "message": finding.message.rstrip(".")}
        for section in sections
        for finding in section.checked.findings
    ]  # fmt: skip
    n_of = lambda severity: sum(finding["severity"] == severity for finding in findings)
    training = results.model.training
    context = {
        "several": several,
        "sections": [_row(section, quality[i] if quality else {}) | {"color": PALETTE[i % len(PALETTE)]} for i, section in enumerate(sections)],
        "n_spots": sum(section.table.n_obs for section in sections),
        "n_genes": joint.table.n_vars if joint is not None else sections[0].table.n_vars,
        "findings": findings, "n_errors": n_of("error"), "n_warnings": n_of("warning"),
        "quality": quality, "quality_pictures": quality_pictures, "domains": domains,
        "embedding": facts.describe_embedding(results, colors), "imputation": imputation, "couplings": couplings,
        "map": _map(results, colors) if has_domains and not several else None,
        "has_image": sections[0].image is not None,
        "problems": results.problems, "reused": sorted(results.reused), "seed": request.seed,
        "model": {
            "name": results.model.name, "architecture": results.model.config.architecture, "sha256": results.model.sha256,
            "n_genes": len(results.model.vocabulary),
        },
        "training": f"{training['n_spots']:,} spots of {training.get('n_sections', 1)} sections" if "n_spots" in training else "",
        "coverage": sections[0].checked.read.get("genes", "") if not several else "",
        "versions": {"sagefm": sagefm.__version__} | {name: version(name) for name in _PACKAGES},
        "lead": _lead(results),
        "steps": part_calls(results, request, keys),
    }  # fmt: skip
    context["tiles"] = _tiles(context)
    context["contents"] = [(name, text) for name, text in _CONTENTS.items() if name != "quality" or quality]
    return context


def _row(section: Any, quality: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": section.name, "n_spots": section.table.n_obs, "n_genes": section.table.n_vars, "low": 0, "median": 0, "high": 0,
        "technology": section.checked.read.get("technology", "unknown"), "read": [(topic, _plain(text)) for topic, text in section.checked.read.items()], **quality,
    }  # fmt: skip


def _plain(text: str) -> str:
    """Return what was read without the names that it has in Python."""
    return re.sub(r"adata\.\w+(\[[^]]*\])?[,:] |, as no library_key is given", "", text)


def _tiles(context: dict[str, Any]) -> list[dict[str, str]]:
    """Return the key figures under the summary."""
    tiles = [{"value": f"{context['n_spots']:,}", "label": "spots"}]
    if context["several"]:
        tiles.insert(0, {"value": str(len(context["sections"])), "label": "sections"})
    elif context["quality"]:
        quality = context["quality"][0]
        tiles += [
            {"value": f"{quality['median']:,.0f}", "label": "counts per spot, median"},
            {"value": f"{quality['median_genes']:,}", "label": "genes per spot, median"},
        ]
        if quality["mitochondrial"] is not None:
            tiles.append({"value": f"{100 * quality['mitochondrial']:.1f} %", "label": "mitochondrial, median"})
    if context["domains"]:
        tiles.append({"value": str(len(context["domains"]["rows"])), "label": "domains"})
    if context["imputation"]:
        tiles.append({"value": f"{context['imputation']['n_recovered']:,}", "label": "genes recovered"})
    if context["couplings"]:
        tiles.append({"value": f"{context['couplings']['n_significant']:,}", "label": "coupled pairs"})
    return tiles


def _map(results: Results, colors: dict[str, str]) -> str | None:
    section = results.sections[0]
    if section.table.n_obs > MAX_SPOTS:
        return None
    recovered = facts.map_genes(results)
    markers = [] if results.markers is None else list(dict.fromkeys(results.markers["gene"]))
    return to_script(map_data(section, colors, (markers + recovered)[:_MAP_GENES], recovered[:_MAP_IMPUTED]))


def _lead(results: Results) -> str:
    if len(results.sections) > 1:
        return (
            f"{len(results.sections)} sections side by side: {', '.join(section.name for section in results.sections)}."
        )
    technology = results.sections[0].checked.read.get("technology", "")
    return f"{technology}." if technology else "One section."


def render(page: dict[str, Any]) -> str:
    """Return the page as HTML."""
    from jinja2 import Environment, StrictUndefined

    # The template escapes whatever is not a picture of ours.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "count": lambda number: f"{number:,.0f}",
        "of": lambda number, noun: f"{number:,} {noun}{'' if number == 1 else 's'}",
        "percent": lambda share, digits=0: f"{100 * share:.{digits}f} %",
        "r": lambda number, digits=2: _without_zero(f"{number:.{digits}f}"),
        "signed": lambda number, digits=1: _without_zero(f"{number:+.{digits}f}").replace("-", "−"),
        "p": lambda number: "< .001" if number < 0.001 else _without_zero(f"{number:.3f}"),
        "csv": _as_link,
    }
    template = environment.from_string((TEMPLATES / "report.html.j2").read_text(encoding="utf-8"))
    css, js = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "map.js"))
    return template.render(**page, css=css, js=js)


def _without_zero(text: str) -> str:
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text


def _as_link(table: pd.DataFrame) -> str:
    return f"data:text/csv;base64,{base64.b64encode(table.to_csv(index=False, float_format='%.5g').encode()).decode()}"
