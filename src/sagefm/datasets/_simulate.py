"""Simulated sections in which it is known which gene of the neighbors acts on which gene of the center."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from scipy.cluster.vq import kmeans2
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from sagefm._arguments import as_seed, whole_number
from sagefm._constants import BLOCK_ROWS, N_SPOTS, SPATIAL_KEY
from sagefm.data._genes import published_vocabulary
from sagefm.errors import ArgumentError

_PITCH = 100.0  # um between neighboring spots of a Visium array
_ABUNDANCE_SD = 1.2
_PROGRAM_SHARE = 0.3
_MAX_LOG = 2.0
_MIN_DOMAIN = 7  # a spot and its six neighbors


def simulate(
    n_spots: int = 1000,
    *,
    n_genes: int = 1500,
    n_sections: int = 1,
    n_domains: int = 4,
    n_effects: int = 10,
    n_decoys: int = 10,
    strength: float = 0.5,
    median_counts: float = 5000.0,
    depth_sd: float = 0.4,
    domain_sd: float = 0.5,
    donor_sd: float = 0.3,
    inverse_dispersion: float = 10.0,
    return_rates: bool = False,
    rng: int | np.random.Generator = 0,
) -> AnnData:
    r"""Simulate hexagonal sections with domains and planted effects of the neighbors on the center.

    Parameters
    ----------
    n_spots
        Spots of each section, at least 15.
    n_genes
        Genes, at most 14,558: they are named after the first genes of the published vocabulary. The bundled and the
        published model need at least 200 of their genes; a model that is trained on the section does not.
    n_sections
        Sections, each from its own donor.
    n_domains
        Domains in each section, with at least 7 spots each.
    n_effects
        Planted pairs: the source in the neighbors acts on the target in the center.
    n_decoys
        Pairs without an effect that share a domain program, so that they are expressed together.
        No gene is in two pairs: ``2 * (n_effects + n_decoys) <= n_genes``.
    strength
        Largest effect: change of the target's log rate for one standard deviation of the source's neighbor mean.
        Sizes are evenly spaced from half of it to all of it, with alternating signs.
    median_counts
        Median library size of a spot, before the effects are added.
    depth_sd
        Standard deviation of the log library size.
    domain_sd
        Standard deviation of a domain program, in log rate.
    donor_sd
        Standard deviation of a section's profile around the shared one, in log rate.
    inverse_dispersion
        :math:`\theta` of the negative binomial: the variance is :math:`\lambda + \lambda^2/\theta`.
    return_rates
        Add the expected counts as ``layers["rate"]`` (dense). The counts are the same with and without.
    rng
        Seed or generator. The same seed gives exactly the same values on the same machine with the same numpy.

    Returns
    -------
    AnnData
        - ``X``: counts, CSR float32 (n_sections * n_spots, n_genes).
        - ``obs["library"]``, ``obs["domain"]``: section and domain, categorical;
          ``obs["array_row"]``, ``obs["array_col"]``: array position in Space Ranger's numbering.
        - ``obsm["spatial"]``: coordinates in um, float64. Every section begins at (0, 0): with several sections, pass
          ``library_key="library"``.
        - ``uns["truth"]``: DataFrame with one row per pair: ``source``, ``target``, ``strength`` (signed;
          0 for decoys), ``kind`` ("planted" or "decoy").
        - ``uns["simulation"]``: the parameters.
        - ``layers["rate"]``: :math:`\lambda`, float32, with `return_rates`.

    Raises
    ------
    ArgumentError
        An argument is outside its range.

    Notes
    -----
    Spot :math:`i` of section :math:`s` and domain :math:`d`, gene :math:`g`, the 14 nearest spots :math:`N(i)`
    (spots at the same distance are taken in the order of the table):

    .. math::

        x_{ig} &= \beta_{dg} + a_{ig}
            && \beta_{dg} \sim N(0, \text{domain\_sd}^2), \quad a_{ig} \sim N(0, 1) \\
        \pi_{ig} &= \frac{\exp(\mu_g + \delta_{sg} + x_{ig})}{\sum_h \exp(\mu_h + \delta_{sh} + x_{ih})}
            && \mu_g \sim N(0, 1.2^2), \quad \delta_{sg} \sim N(0, \text{donor\_sd}^2) \\
        m_{ig} &= \operatorname{standardize}_s\Big(\tfrac{1}{14} \textstyle\sum_{j \in N(i)} x_{jg}\Big) \\
        \lambda_{ig} &= L_i \, \pi_{ig} \, \exp(\text{strength}_g \, m_{i,\text{source}(g)})
            && \log L_i \sim N(\log \text{median\_counts}, \text{depth\_sd}^2) \\
        y_{ig} &\sim \text{NB}(\text{mean } \lambda_{ig}, \text{inverse dispersion } \theta)

    - :math:`x` is the latent expression. The activity :math:`a` is drawn for every spot, and only for the sources of
      planted pairs and decoys (it is 0 for all other genes). Beyond the domain, a source's level in the neighbors says
      nothing about its level in the center: effects act from neighbor to center, not within a spot.
    - The exponential factor of :math:`\lambda` is 1 for all genes but planted targets. It multiplies the rate after
      normalization: no other gene changes, and the library size grows.
    - A program :math:`\beta` is zero for 70 % of domains and genes. Sources, however, have a program in every
      domain, and the target of a decoy shares that of its source.
    - The genes of pairs have middle to high abundance: the upper half without the highest 5 %, where these
      are enough.
    - Domains grow from spread-out seeds along shortest paths with random step lengths, so they are contiguous.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.simulate(200, n_genes=300, n_sections=2, rng=1)
    >>> adata.shape
    (400, 300)
    >>> adata.uns["truth"]["kind"].value_counts().to_dict()
    {'planted': 10, 'decoy': 10}
    """
    parameters: dict[str, Any] = {
        "n_spots": n_spots, "n_genes": n_genes, "n_sections": n_sections, "n_domains": n_domains,
        "n_effects": n_effects, "n_decoys": n_decoys, "strength": strength, "median_counts": median_counts,
        "depth_sd": depth_sd, "domain_sd": domain_sd, "donor_sd": donor_sd, "inverse_dispersion": inverse_dispersion,
    }  # fmt: skip
    _check(parameters)
    if isinstance(rng, np.random.Generator):
        parameters["rng"] = "generator"
    else:
        parameters["rng"] = as_seed(rng)
        rng = np.random.default_rng(parameters["rng"])

    abundance = rng.normal(0.0, _ABUNDANCE_SD, n_genes)
    sources, targets = _draw_pairs(abundance, n_effects + n_decoys, rng)
    planted = slice(n_effects)
    signed = strength * np.linspace(0.5, 1.0, n_effects) * (-1.0) ** np.arange(n_effects)
    # Log fold changes of domains (n_domains, n_genes), most of them zero.
    programs = rng.normal(0.0, domain_sd, (n_domains, n_genes)) * (rng.random((n_domains, n_genes)) < _PROGRAM_SHARE)
    programs[:, sources] = rng.normal(0.0, domain_sd, (n_domains, len(sources)))
    programs[:, targets[n_effects:]] = programs[:, sources[n_effects:]]

    array = _lattice(n_spots)
    coordinates = array[:, ::-1] * (_PITCH / 2) * np.array([1.0, math.sqrt(3.0)])
    neighbors = _nearest(array)

    domains, counts, rates = [], [], []
    for _ in range(n_sections):
        domain = _grow_domains(coordinates, n_domains, rng)
        profile = np.exp(abundance + rng.normal(0.0, donor_sd, n_genes) + programs)
        depth = median_counts * np.exp(depth_sd * rng.standard_normal(n_spots))
        activity = rng.standard_normal((n_spots, len(sources)))
        latent = programs[:, sources[planted]][domain] + activity[:, planted]
        mean = latent[neighbors].mean(axis=1)
        effect = np.exp(signed * (mean - mean.mean(axis=0)) / mean.std(axis=0))
        # Blocks of rows: only the rates, if asked for, are ever dense as a whole.
        for start in range(0, n_spots, BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            rate = profile[domain[rows]]
            rate[:, sources] *= np.exp(activity[rows])
            rate *= (depth[rows] / rate.sum(axis=1))[:, None]
            rate[:, targets[planted]] *= effect[rows]
            noise = rng.standard_gamma(inverse_dispersion, rate.shape) / inverse_dispersion
            counts.append(sparse.csr_matrix(rng.poisson(rate * noise).astype(np.float32)))
            if return_rates:
                rates.append(rate.astype(np.float32))
        domains.append(domain)

    library = np.repeat(np.arange(n_sections), n_spots)
    obs = pd.DataFrame(
        {
            "library": _categorical(library, "section", n_sections),
            "domain": _categorical(np.concatenate(domains), "domain", n_domains),
            "array_row": np.tile(array[:, 0], n_sections),
            "array_col": np.tile(array[:, 1], n_sections),
        }
    )
    obs.index = obs["library"].astype(str) + "_" + obs["array_row"].astype(str) + "x" + obs["array_col"].astype(str)
    obs.index.name = None
    genes = np.array(published_vocabulary().symbols[:n_genes], dtype=object)
    truth = pd.DataFrame(
        {
            "source": genes[sources],
            "target": genes[targets],
            "strength": np.concatenate([signed, np.zeros(n_decoys)]),
            "kind": ["planted"] * n_effects + ["decoy"] * n_decoys,
        },
        index=[str(i) for i in range(len(sources))],
    )
    return AnnData(
        X=sparse.csr_matrix(sparse.vstack(counts, format="csr")),
        obs=obs,
        var=pd.DataFrame(index=genes),
        obsm={SPATIAL_KEY: np.tile(coordinates, (n_sections, 1))},
        layers={"rate": np.concatenate(rates)} if return_rates else None,
        uns={"truth": truth, "simulation": parameters},
    )


def _lattice(n_spots: int) -> NDArray[np.int64]:
    """Return the places of a roughly square section, row by row: array row, array column (n_spots, 2).

    As on a Visium array, columns count half a pitch and even rows hold even columns.
    """
    width = round(math.sqrt(n_spots * math.sqrt(3.0) / 2))
    row, place = np.divmod(np.arange(n_spots), width)
    return np.column_stack([row, 2 * place + row % 2])


def _nearest(array: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the 14 nearest spots of each spot, of equal ones the first (n_spots, 14).

    Squared distances are whole numbers in units of half a pitch, so that ties are exact. The fourteenth
    neighbor's distance ends well before the 32nd candidate on this lattice, on edges and corners too.
    """
    scaled = array * np.array([math.sqrt(3.0), 1.0])
    _, candidates = cKDTree(scaled).query(scaled, k=min(len(array), 32))
    squared = ((array[candidates] - array[:, None]) ** 2 * np.array([3, 1])).sum(axis=2)
    order = np.lexsort((candidates, squared), axis=1)[:, 1:N_SPOTS]  # the first is the spot itself
    return np.take_along_axis(candidates, order, axis=1)


def _grow_domains(coordinates: NDArray[np.float64], n_domains: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return contiguous domains, 0 to n_domains - 1 (n_spots,).

    Seeds are drawn and spread by a few steps of k-means. Each spot takes the domain of the seed with the shortest path
    along the lattice, where every step has a random length. All spots on that path have the same seed, so no domain
    falls apart.
    """
    n_spots = len(coordinates)
    drawn = coordinates[rng.choice(n_spots, n_domains, replace=False)]
    centers, cell = kmeans2(coordinates, drawn, iter=5, minit="matrix", missing="raise")
    off_center = np.linalg.norm(coordinates - centers[cell], axis=1)
    order = np.lexsort((off_center, cell))
    # Of each cell, in order, the spot nearest its center; a domain has the number of its seed's cell.
    seeds = order[np.searchsorted(cell[order], np.arange(n_domains))]
    steps = cKDTree(coordinates).query_pairs(1.01 * _PITCH, output_type="ndarray")
    lengths = rng.uniform(0.5, 1.5, len(steps))
    graph = sparse.csr_matrix((lengths, (steps[:, 0], steps[:, 1])), shape=(n_spots, n_spots))
    _, _, nearest = dijkstra(graph, directed=False, indices=seeds, return_predecessors=True, min_only=True)
    return cell[nearest]


def _draw_pairs(
    abundance: NDArray[np.float64], n_pairs: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return sources and targets, all different, of middle to high abundance, each (n_pairs,)."""
    n_genes = len(abundance)
    skipped = min(n_genes // 20, n_genes - 2 * n_pairs)
    pool = np.argsort(-abundance)[skipped : max(n_genes // 2, skipped + 2 * n_pairs)]
    drawn = rng.choice(pool, 2 * n_pairs, replace=False)
    return drawn[:n_pairs], drawn[n_pairs:]


def _categorical(codes: NDArray[np.int64], name: str, n: int) -> pd.Categorical:
    return pd.Categorical.from_codes(codes, categories=[f"{name}{i + 1}" for i in range(n)])


def _check(parameters: dict[str, Any]) -> None:
    least = {"n_spots": N_SPOTS, "n_genes": 1, "n_sections": 1, "n_domains": 1, "n_effects": 0, "n_decoys": 0}
    for name, value in parameters.items():
        if name in least:
            whole_number(value, name=name, minimum=least[name])
            continue
        if not isinstance(value, int | float | np.number) or isinstance(value, bool):
            raise ArgumentError(f"{name}={value!r}; expected a number.")
        if name.endswith("_sd"):
            allowed, expected = 0 <= value <= _MAX_LOG, f"0 to {_MAX_LOG:g}, in natural-log units"
        elif name == "strength":
            allowed, expected = 0 < value <= _MAX_LOG, f"more than 0 and at most {_MAX_LOG:g}, in natural-log units"
        else:
            allowed, expected = 0 < value <= 1e6, "more than 0 and at most 1,000,000"
        if not allowed:
            raise ArgumentError(f"{name}={value!r}; expected {expected}.")
    n_spots, n_genes, n_domains = parameters["n_spots"], parameters["n_genes"], parameters["n_domains"]
    n_known = len(published_vocabulary())
    if n_genes > n_known:
        raise ArgumentError(f"n_genes={n_genes}; expected at most {n_known}, the genes of the published vocabulary.")
    if n_domains > n_spots // _MIN_DOMAIN:
        raise ArgumentError(
            f"n_domains={n_domains} with n_spots={n_spots}; expected at most {n_spots // _MIN_DOMAIN} domains, "
            f"of {_MIN_DOMAIN} spots each. Pass fewer domains or more spots."
        )
    taken = 2 * (parameters["n_effects"] + parameters["n_decoys"])
    if taken > n_genes:
        raise ArgumentError(
            f"n_effects={parameters['n_effects']} and n_decoys={parameters['n_decoys']} take {taken} genes, a source "
            f"and a target for each pair; found n_genes={n_genes}. Pass n_genes={taken} or more, or fewer pairs."
        )
