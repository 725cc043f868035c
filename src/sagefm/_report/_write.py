"""``sagefm.report``."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sagefm
from sagefm._arguments import as_path, as_seed, key_name, listed, whole_number
from sagefm._constants import SPATIAL_KEY
from sagefm._progress import ProgressBar
from sagefm._replacing import replacing, try_file
from sagefm._report._analysis import Request, Results, analyze
from sagefm._report._calls import page_call
from sagefm._report._page import page_facts, render
from sagefm._report._sections import read_sections
from sagefm.checkpoint._resolve import resolve_model
from sagefm.data._table import TableKeys
from sagefm.errors import ArgumentError

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

    from sagefm.model import SAGEFM, Checkpoint


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
        As in :func:`sagefm.tl.embed`.
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
    path = as_path(path, name="path")
    if path.exists() and not overwrite:
        raise sagefm.errors.OutputExistsError(f"{path} exists. Choose another path, or pass overwrite=True.")
    if not path.parent.is_dir():
        raise ArgumentError(f"{path.parent} is no folder. Make it first, or choose another path.")
    try_file(path)
    for name, text in (("title", title), ("command", command)):
        if text is not None:
            key_name(text, name=name)
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
    with ProgressBar("report: reading", progress=progress) as bar:
        sections = read_sections(adata, checkpoint.vocabulary, keys, table_key=table_key, mod=mod)
        results = Results(sections, None, checkpoint)
        for step in analyze(results, request):
            bar.set_description_str(f"report: {step}")
        page = page_facts(results, request, keys)
    names = {
        "table_key": table_key,
        "mod": mod,
        "n_domains": n_domains,
        "genes": genes,
        "sources": sources,
        "targets": targets,
        "title": title,
    }
    now = datetime.now().astimezone()
    page |= {
        "title": title or (sections[0].name if len(sections) == 1 else f"{len(sections)} sections"),
        "command": command,
        "python": page_call(adata, path, model, vars(keys) | names, request.seed),
        "seconds": round(time.perf_counter() - start),
        "date": f"{now.day} {now:%B %Y, %H:%M}",
    }
    with replacing(path) as staged:
        staged.write_text(render(page), encoding="utf-8")
    return path
