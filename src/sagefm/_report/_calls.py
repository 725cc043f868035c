"""The calls that make a page and its parts, in Python, as a user can give them again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sagefm._constants import SPATIAL_KEY
from sagefm._report._analysis import MAX_IMPUTED, MIN_DETECTED, Request, Results

if TYPE_CHECKING:
    from pathlib import Path

    from sagefm.data._table import TableKeys


def page_call(adata: Any, path: Path, model: Any, arguments: dict[str, Any], seed: int) -> str:
    """Return the call that makes a page of `adata`, or of several sections by name."""
    given = _given(arguments)
    names = list(map(str, adata)) if isinstance(adata, Mapping) and not hasattr(adata, "obs") else []
    if len(names) == 1:
        given.setdefault("title", names[0])
    if seed:
        given["rng"] = seed
    read = 'adata = sagefm.io.read("...")  # a folder of Space Ranger, .h5ad, .zarr, ...'
    if len(names) > 1:
        read = "adata = {" + ", ".join(f'{name!r}: sagefm.io.read("...")' for name in names) + "}"
    name = str(getattr(model, "name", model))
    parts = ["adata", repr(path.name), *([] if name == "default" else [repr(name)])]
    parts += [f"{key}={value!r}" for key, value in given.items()]
    return f"import sagefm\n\n{read}\nsagefm.report({', '.join(parts)})"


def part_calls(results: Results, request: Request, keys: TableKeys) -> str:
    """Return the calls that make the parts of a page."""
    read = vars(keys)
    given = _listed(_given(read))
    without_graph = _listed(_given({**read, "neighbors_key": None}))
    model = repr(results.model.name)
    n_domains = "" if request.n_domains is None else f", {request.n_domains}"
    lines = ["import pandas as pd, scanpy as sc", ""]
    if len(results.sections) > 1:
        lines += [
            "# embed and impute for each section; the others for all of them joined, on the genes that they share:",
            "# adata = anndata.concat(sections, label='section', index_unique=':'), with library_key='section'",
        ]
    lines += [
        f"sagefm.pp.check(adata, {model}{without_graph})",
        f"sagefm.tl.embed(adata, {model}{given})  # adata.obsm['X_sagefm']",
        f"sagefm.tl.domains(adata{n_domains}{without_graph}, rng={request.seed})  # adata.obs['sagefm_domain']",
        f"sc.pp.neighbors(adata, use_rep='X_sagefm', random_state={request.seed})",
        f"sc.tl.umap(adata, random_state={request.seed})",
    ]
    genes = "genes" if request.genes is None else repr(list(request.genes))
    if request.genes is None:
        rule = f"at most {MAX_IMPUTED:,}, seen in {MIN_DETECTED:.0%} of the spots"
        lines.append(f"genes = list(pd.read_csv('imputed_genes.csv')['gene'])  # {rule}")
    lines.append(
        f"sagefm.tl.impute(adata, {model}, genes={genes}{given}, rng={request.seed})  # adata.var['sagefm_imputed_r']"
    )
    pairs = "coupled, coupled"
    if request.sources is not None and request.targets is not None:
        pairs = f"{request.sources!r}, {request.targets!r}"
    else:
        lines.append("coupled = list(pd.read_csv('coupled_genes.csv')['gene'])")
    lines.append(f"sagefm.tl.regulatory_network(adata, {pairs}{given})  # adata.uns['sagefm_network']['edges']")
    return "\n".join(lines)


def _given(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that differ from their defaults."""
    return {
        name: value
        for name, value in arguments.items()
        if value is not None and (name, value) != ("spatial_key", SPATIAL_KEY)
    }


def _listed(arguments: dict[str, Any]) -> str:
    return "".join(f", {name}={value!r}" for name, value in arguments.items())
