"""What a report computes: the verbs of this package on sections, and what scanpy says of their domains."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from sagefm import tl
from sagefm._constants import DOMAIN_KEY, EMBEDDING_KEY, IMPUTED_KEY, NETWORK_KEY, UNS_KEY
from sagefm._report._sections import Section, join
from sagefm.data._genes import match_genes
from sagefm.data._table import entry
from sagefm.errors import SagefmError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from sagefm.checkpoint._checkpoint import Checkpoint

#: Share of the spots in which a gene must be seen to be imputed or to be a marker; and how many are imputed at most.
MIN_DETECTED, MAX_IMPUTED = 0.05, 2000
#: The most abundant genes, all pairs of which are tested for couplings.
N_COUPLED = 200
#: Spots that the map of embeddings is computed of, at most.
MAX_UMAP = 5000
#: Genes that say little about tissue: of mitochondria, ribosomes and hemoglobin, and those without a name.
DULL = re.compile(
    r"^(?:MT-|MTRNR|RP[SL]\d|RPLP|RPSA|MRP[SL]|HB[ABDGMQZ]\d?$|ENSG|MALAT1|NEAT1)|^A[CLPF]\d{6}|\.\d+$", re.IGNORECASE
)
_MARKERS = 5


@dataclass
class Results:
    """What was computed of the sections of a page; of what could not be, the reason.

    Attributes
    ----------
    sections
        Sections, each with its results in its table.
    joint
        All spots with the genes that the sections share; of a single section, itself.
    model
        Checkpoint that embeds and imputes.
    problems
        Why a part is missing, by its name.
    reused
        Parts that the object held already.
    markers
        A row for each domain and gene.
    umap
        Coordinates (n_shown, 2), and rows of the joint table that they are of.
    """

    sections: list[Section]
    joint: Section | None
    model: Checkpoint
    problems: dict[str, str] = field(default_factory=dict)
    reused: set[str] = field(default_factory=set)
    markers: pd.DataFrame | None = None
    umap: tuple[NDArray[np.float64], NDArray[np.int64]] | None = None

    def has(self, part: str) -> bool:
        """Tell whether a part was computed."""
        return part not in self.problems

    @property
    def domains(self) -> pd.Series:
        """Domain of each spot of the joint table, categorical."""
        if self.joint is None:
            raise SagefmError("There are no domains.")
        return self.joint.table.obs[DOMAIN_KEY]


@dataclass(frozen=True)
class Request:
    """What the user asks for beyond the defaults."""

    n_domains: int | None = None
    genes: Sequence[str] | None = None
    sources: Sequence[str] | None = None
    targets: Sequence[str] | None = None
    seed: int = 0
    device: str = "auto"


def analyze(results: Results, request: Request) -> Iterator[str]:
    """Compute all parts of a page; yield the name of each before it is done."""
    steps: list[tuple[str, Callable[[Results, Request], None]]] = [
        ("embedding", _embed),
        ("domains", _find_domains),
        ("markers", _find_markers),
        ("umap", _map_embedding),
        ("imputation", _impute),
        ("couplings", _couple),
    ]
    # Genes that the model does not know do not matter to the steps that need no model.
    is_refused = any(
        finding.severity == "error" and finding.what != "genes"
        for section in results.sections
        for finding in section.checked.findings
    )
    for name, step in steps:
        yield name
        if is_refused:
            # Each step would raise it: said once, at the top of the page.
            results.problems[name] = "sagefm does not read this section as it is; see what was found in the input."
            continue
        try:
            # What the verbs would warn of is among the findings.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                step(results, request)
        except SagefmError as error:
            results.problems[name] = str(error)
    yield "drawing"


def _table_arguments(section: Section) -> dict[str, Any]:
    keys = vars(section.keys)
    return {name: value for name, value in keys.items() if value is not None}


def _holds(results: Results, key: str) -> bool:
    """Tell whether a single section was given with a result of this model."""
    table = results.sections[0].table
    recorded = entry(table, UNS_KEY, key)
    return len(results.sections) == 1 and recorded.get("checkpoint_sha256") == results.model.sha256


def _embed(results: Results, request: Request) -> None:
    if _holds(results, EMBEDDING_KEY) and EMBEDDING_KEY in results.sections[0].table.obsm:
        results.reused.add("embedding")
        return
    for section in results.sections:
        tl.embed(section.table, results.model, **_table_arguments(section), device=request.device, progress=False)


def _find_domains(results: Results, request: Request) -> None:
    results.joint = joint = join(results.sections)
    table = joint.table
    is_held = (
        DOMAIN_KEY in table.obs
        and DOMAIN_KEY in table.uns
        and isinstance(table.obs[DOMAIN_KEY].dtype, pd.CategoricalDtype)
    )
    if is_held and request.n_domains is None:
        results.reused.add("domains")
        return
    arguments = {name: value for name, value in _table_arguments(joint).items() if name != "neighbors_key"}
    tl.domains(table, request.n_domains, **arguments, rng=request.seed, progress=False)
    start = 0
    for section in results.sections if len(results.sections) > 1 else []:
        rows = slice(start, start := start + section.table.n_obs)
        for key in (DOMAIN_KEY, f"{DOMAIN_KEY}_probability"):
            section.table.obs[key] = table.obs[key].to_numpy()[rows]
        section.table.obs[DOMAIN_KEY] = pd.Categorical(
            section.table.obs[DOMAIN_KEY], table.obs[DOMAIN_KEY].cat.categories
        )


def _find_markers(results: Results, _request: Request) -> None:
    """Compare each domain with all other spots, by measured counts (Welch's t of log-normalized counts)."""
    import scanpy as sc

    joint = results.joint
    if joint is None or "domains" in results.problems or joint.counts is None:
        raise SagefmError("There are no domains.")
    domains = results.domains
    if len(domains.cat.categories) < 2:
        raise SagefmError("There is one domain only.")
    symbols = pd.Index(joint.symbols.astype(str))
    kept = np.flatnonzero((joint.detected >= MIN_DETECTED) & ~symbols.duplicated())
    small = AnnData(
        joint.counts[:, kept].copy(),
        obs=pd.DataFrame({"domain": domains.to_numpy()}, joint.table.obs_names.astype(str)),
    )
    small.var_names = symbols[kept]
    small.obs["domain"] = pd.Categorical(small.obs["domain"], domains.cat.categories)
    sizes = small.obs["domain"].value_counts()
    groups = [str(name) for name in domains.cat.categories if sizes[name] > 1]
    is_seen = (small.X > 0).astype(np.float32)
    sc.pp.normalize_total(small)
    sc.pp.log1p(small)
    sc.tl.rank_genes_groups(small, "domain", groups=groups, method="t-test")
    rows = []
    for domain in groups:
        table = sc.get.rank_genes_groups_df(small, domain)
        inside = (small.obs["domain"] == domain).to_numpy()
        within = np.asarray(is_seen[inside].mean(axis=0)).ravel()
        outside = np.asarray(is_seen[~inside].mean(axis=0)).ravel()
        columns = small.var_names.get_indexer(table["names"])
        table = table.assign(domain=domain, within=within[columns], outside=outside[columns])
        dull = table["names"].str.contains(DULL)
        best = table[(table["logfoldchanges"] > 0) & (table["within"] >= 0.1) & (table["within"] > table["outside"])]
        rows.append(
            best.assign(dull=dull[best.index]).sort_values(["dull", "scores"], ascending=[True, False]).head(_MARKERS)
        )
    results.markers = pd.concat(rows).rename(columns={"names": "gene", "logfoldchanges": "log2_fold"})[
        ["domain", "gene", "log2_fold", "within", "outside"]
    ].reset_index(drop=True)  # fmt: skip


def _map_embedding(results: Results, request: Request) -> None:
    """Compute a UMAP of the embeddings of all sections."""
    import scanpy as sc

    if "embedding" in results.problems:
        raise SagefmError("There is no embedding.")
    latent = np.vstack([np.asarray(section.table.obsm[EMBEDDING_KEY]) for section in results.sections])
    rows = np.arange(len(latent))
    if len(rows) > MAX_UMAP:
        rows = np.sort(np.random.default_rng(request.seed).choice(rows, MAX_UMAP, replace=False))
    if len(rows) < 16:
        raise SagefmError(f"{len(rows)} spots are too few for a map of embeddings.")
    # Without counts or names: scanpy takes it for the graph alone.
    small = AnnData(obsm={"X": latent[rows]}, obs=pd.DataFrame(index=rows.astype(str)))
    sc.pp.neighbors(small, use_rep="X", random_state=request.seed)
    sc.tl.umap(small, random_state=request.seed)
    results.umap = np.asarray(small.obsm["X_umap"], dtype=np.float64), rows


def imputed_genes(section: Section, results: Results) -> list[str]:
    """Return the genes that a page imputes: those of the model that enough spots show, the most abundant first."""
    match = match_genes(section.table, results.model.vocabulary, section.keys.gene_key).report
    used = (match["matched"] & ~match["duplicate"]).to_numpy() & (section.detected >= MIN_DETECTED)
    # By the model's names: the table may have earlier ones.
    names = match["gene"].to_numpy()
    return [str(names[i]) for i in _by_abundance(section) if used[i]][:MAX_IMPUTED]


def _by_abundance(section: Section) -> NDArray[np.int64]:
    """Return the genes of a section, the most abundant first."""
    return np.argsort(-np.asarray(section.counts.sum(axis=0)).ravel(), kind="stable")  # type: ignore[union-attr]


def _impute(results: Results, request: Request) -> None:
    table = results.sections[0].table
    if (
        request.genes is None
        and _holds(results, IMPUTED_KEY)
        and IMPUTED_KEY in table.layers
        and IMPUTED_KEY in table.var
    ):
        results.reused.add("imputation")
        return
    for section in results.sections:
        genes = list(request.genes) if request.genes is not None else imputed_genes(section, results)
        if not genes:
            raise SagefmError(f"No gene of the model is seen in {MIN_DETECTED:.0%} of the spots of {section.name}.")
        arguments = _table_arguments(section)
        tl.impute(
            section.table,
            results.model,
            genes=genes,
            **arguments,
            rng=request.seed,
            device=request.device,
            progress=False,
        )


def coupled_genes(section: Section) -> list[str]:
    """Return the most abundant genes, but those of mitochondria, ribosomes and blood."""
    names = section.table.var_names if section.keys.gene_key is None else section.table.var[section.keys.gene_key]
    order = _by_abundance(section)
    detected = section.detected
    kept = [str(names[i]) for i in order if detected[i] >= MIN_DETECTED and not DULL.search(str(section.symbols[i]))]
    return list(dict.fromkeys(kept))[:N_COUPLED]


def _couple(results: Results, request: Request) -> None:
    joint = results.joint
    if joint is None:
        raise SagefmError(results.problems.get("domains", "The sections cannot be joined."))
    stored = entry(joint.table, NETWORK_KEY)
    is_whole = isinstance(stored.get("edges"), pd.DataFrame) and isinstance(stored.get("params"), Mapping)
    if request.sources is None and request.targets is None and is_whole:
        results.reused.add("couplings")
        return
    genes = None if request.sources is not None and request.targets is not None else coupled_genes(joint)
    sources = request.sources if request.sources is not None else genes
    targets = request.targets if request.targets is not None else genes
    arguments = _table_arguments(joint)
    tl.regulatory_network(joint.table, sources, targets, **arguments, device=request.device, progress=False)
