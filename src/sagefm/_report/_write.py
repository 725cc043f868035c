"""``sagefm.report``."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

import sagefm
from sagefm._arguments import as_seed, listed, whole_number
from sagefm._constants import DOMAIN_KEY, SPATIAL_KEY
from sagefm._report import _facts as facts
from sagefm._report._analysis import MAX_IMPUTED, MIN_DETECTED, Request, Results, analyze
from sagefm._report._figures import colors_of
from sagefm._report._map import MAX_SPOTS, map_data, to_script
from sagefm._report._sections import read_sections
from sagefm.checkpoint._resolve import resolve_model
from sagefm.data._files import replace_path
from sagefm.data._table import TableKeys
from sagefm.errors import ArgumentError, SagefmError
from sagefm.pl._embedding import PALETTE

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import numpy as np
    import pandas as pd

    from sagefm.model import SAGEFM, Checkpoint

_TEMPLATES = files("sagefm._report") / "templates"
_PACKAGES = ("anndata", "scanpy", "numpy", "scipy", "torch", "umap-learn", "matplotlib")
#: Genes that the map offers as measured, and as imputed.
_MAP_GENES, _MAP_IMPUTED = 24, 8


def report(
    adata: Any,
    path: str | os.PathLike[str] = "report.html",
    model: str | os.PathLike[str] | SAGEFM | Checkpoint = "default",
    *,
    n_domains: int | None = None,
    genes: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    library_key: str | None = None,
    neighbors_key: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    title: str | None = None,
    rng: int | np.random.Generator = 0,
    device: str = "auto",
    progress: bool = True,
    overwrite: bool = True,
    command: str | None = None,
) -> Path:
    """Write a page on a section, or on several side by side, that anyone can read, print and send on.

    The page is one HTML file that loads nothing. It says what was read and what :func:`sagefm.pp.check` found, shows
    depth and quality, embeds the spots, finds domains and their markers, imputes genes and says which to trust, tests
    couplings with their power, and ends with versions and the calls that made it. What cannot be computed of a section is
    said on the page.

    Results that a single section holds already (:func:`sagefm.tl.embed`, :func:`sagefm.tl.domains`,
    :func:`sagefm.tl.impute`, :func:`sagefm.tl.regulatory_network`, under their default keys and of this model) are used
    as they are.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData; or several by name, ``{"first": adata1, "second": adata2}``, which are compared,
        as are the libraries of one object. Nothing is written to them.
    path
        File to write.
    model
        As in :func:`sagefm.tl.embed`.
    n_domains
        Number of domains. Default: chosen, see :func:`sagefm.tl.domains`.
    genes
        Genes to impute. Default: those of the model that are seen in 5 % of the spots, at most 2,000, the most abundant.
    sources, targets
        Genes whose couplings are tested, see :func:`sagefm.tl.regulatory_network`. Default: all pairs of the 200 most
        abundant genes, but those of mitochondria, ribosomes and blood.
    layer, gene_key, spatial_key, library_key, neighbors_key, table_key, mod, device
        As in :func:`sagefm.tl.embed`.
    title
        Title of the page. Default: the name of the section.
    rng
        Seed, or a generator that draws one.
    progress
        Show a progress bar (only on a terminal).
    overwrite
        Replace a file that exists.
    command
        Command to show on the page as the one that made it.

    Returns
    -------
    The path.

    Raises
    ------
    sagefm.errors.SagefmError
        There is no such table, column or model, an argument is outside its range, or the file cannot be written.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> path = sagefm.report(adata, "synovium.html", n_domains=4, genes=["CD74", "COL1A1"], title="Synovium RA1")
    >>> path.stat().st_size < 10_000_000
    True
    """
    start = time.perf_counter()
    path = Path(path)
    if path.exists() and not overwrite:
        raise sagefm.errors.OutputExistsError(f"{path} exists. Choose another path, or pass overwrite=True.")
    if not path.parent.is_dir():
        raise ArgumentError(f"{path.parent} is no folder. Make it first, or choose another path.")
    request = Request(
        n_domains=None if n_domains is None else whole_number(n_domains, name="n_domains", minimum=2),
        genes=None if genes is None else listed(genes, argument="genes"),
        sources=sources,
        targets=targets,
        seed=as_seed(rng),
        device=device,
    )
    checkpoint = resolve_model(model)
    keys = TableKeys(layer, gene_key, spatial_key, library_key, neighbors_key)
    with tqdm(desc="reading", bar_format="{desc}", leave=False, disable=None if progress else True) as bar:
        sections = read_sections(adata, checkpoint.vocabulary, keys, table_key=table_key, mod=mod)
        results = Results(sections, None, checkpoint)
        for step in analyze(results, request):
            bar.set_description_str(step)
        page = _context(results, request, keys)
    names = {
        "table_key": table_key,
        "mod": mod,
        "n_domains": n_domains,
        "genes": genes,
        "sources": sources,
        "targets": targets,
        "title": title,
    }
    page |= {
        "title": title or (sections[0].name if len(sections) == 1 else f"{len(sections)} sections"),
        "lead": _lead(results),
        "command": command,
        "python": _python(adata, path, model, vars(keys) | names, request.seed),
        "seconds": round(time.perf_counter() - start),
        "date": datetime.now().astimezone().strftime("%-d %B %Y, %H:%M") if hasattr(time, "tzset") else datetime.now().strftime("%d %B %Y, %H:%M"),
    }  # fmt: skip
    if page["title"] == "section":
        page["title"] = "Section"
    _write(path, _render(page))
    return path


def _context(results: Results, request: Request, keys: TableKeys) -> dict[str, Any]:
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
        "steps": _steps(results, request, keys),
    }  # fmt: skip
    context["tiles"] = _tiles(context)
    shown = (
        ("input", "What was read"),
        ("quality", "Depth and quality"),
        ("domains", "Domains"),
        ("embedding", "Embedding"),
        ("imputation", "Imputed genes"),
        ("couplings", "Couplings"),
        ("limits", "Limits"),
        ("methods", "How it was made"),
    )
    context["contents"] = [(name, text) for name, text in shown if name != "quality" or quality]
    return context


def _row(section: Any, quality: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": section.name, "n_spots": section.table.n_obs, "n_genes": section.table.n_vars, "low": 0, "median": 0, "high": 0,
        "technology": section.checked.read.get("technology", "unknown"), "read": list(section.checked.read.items()), **quality,
    }  # fmt: skip


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


def _python(adata: Any, path: Path, model: Any, arguments: dict[str, Any], seed: int) -> str:
    """Return the call that makes the page."""
    given = {
        name: value
        for name, value in arguments.items()
        if value is not None and (name, value) != ("spatial_key", SPATIAL_KEY)
    }
    given |= {} if seed == 0 else {"rng": seed}
    names = list(map(str, adata)) if isinstance(adata, Mapping) and not hasattr(adata, "obs") else []
    if len(names) == 1 and "title" not in given:
        given["title"] = names[0]
    read = 'adata = sagefm.io.read("...")  # a folder of Space Ranger, .h5ad, .zarr, ...'
    if len(names) > 1:
        read = "adata = {" + ", ".join(f'{name!r}: sagefm.io.read("...")' for name in names) + "}"
    name = str(getattr(model, "name", model))
    parts = [
        "adata",
        repr(path.name),
        *([] if name == "default" else [repr(name)]),
        *(f"{key}={value!r}" for key, value in given.items()),
    ]
    return f"import sagefm\n\n{read}\nsagefm.report({', '.join(parts)})"


def _steps(results: Results, request: Request, keys: TableKeys) -> str:
    """Return the calls of the parts, in Python."""
    given = "".join(
        f", {name}={value!r}"
        for name, value in vars(keys).items()
        if value is not None and (name, value) != ("spatial_key", SPATIAL_KEY)
    )
    without_graph = "".join(
        f", {name}={value!r}"
        for name, value in vars(keys).items()
        if name != "neighbors_key" and value is not None and (name, value) != ("spatial_key", SPATIAL_KEY)
    )
    model = repr(results.model.name)
    n_domains = "" if request.n_domains is None else f", {request.n_domains}"
    genes = f"{list(request.genes)!r}" if request.genes is not None else "list(genes)"
    lines = [
        "import scanpy as sc, pandas as pd",
        f"sagefm.pp.check(adata, {model}{without_graph})",
        f"sagefm.tl.embed(adata, {model}{given})  # adata.obsm['X_sagefm']",
        f"sagefm.tl.domains(adata{n_domains}{without_graph}, rng={request.seed})  # adata.obs['sagefm_domain']",
        "sc.pp.neighbors(adata, use_rep='X_sagefm')",
        "sc.tl.umap(adata)",
    ]
    if len(results.sections) > 1:
        lines.insert(
            1,
            "# of each section; domains and couplings of all of them joined, library_key='section', on the genes they share",
        )
    if request.genes is None:
        lines.append(
            f"genes = pd.read_csv('imputed_genes.csv')['gene']  # at most {MAX_IMPUTED:,}, seen in {MIN_DETECTED:.0%} of the spots"
        )
    lines.append(
        f"sagefm.tl.impute(adata, {model}, genes={genes}{given}, rng={request.seed})  # adata.layers['sagefm_imputed'], adata.var"
    )
    sources, targets = (
        ("genes[:200]", "genes[:200]")
        if request.sources is None or request.targets is None
        else (repr(request.sources), repr(request.targets))
    )
    lines.append(
        f"sagefm.tl.regulatory_network(adata, {sources}, {targets}{given})  # adata.uns['sagefm_network']['edges']"
    )
    return "\n".join(lines)


def _render(page: dict[str, Any]) -> str:
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
    template = environment.from_string((_TEMPLATES / "report.html.j2").read_text(encoding="utf-8"))
    css, js = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "map.js"))
    return template.render(**page, css=css, js=js)


def _without_zero(text: str) -> str:
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text


def _as_link(table: pd.DataFrame) -> str:
    return f"data:text/csv;base64,{base64.b64encode(table.to_csv(index=False, float_format='%.5g').encode()).decode()}"


def _write(path: Path, html: str) -> None:
    """Write a page whole or not at all."""
    staged = path.with_name(f".{path.name}.part")
    try:
        staged.write_text(html, encoding="utf-8")
        replace_path(path, staged)
    except OSError as error:
        raise SagefmError(f"{path} cannot be written: {error}") from error
    finally:
        staged.unlink(missing_ok=True)
