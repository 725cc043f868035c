"""Simulated sections in which it is known which gene of the neighbors acts on which gene of the center."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from sagefm._arguments import as_seed, number, whole_number
from sagefm._constants import BLOCK_ROWS, N_SPOTS, SPATIAL_KEY
from sagefm.data._genes import published_vocabulary
from sagefm.datasets._array import PITCH, grow_domains, lattice, nearest, neighbor_mixing
from sagefm.datasets._decoys import check_kinds, draw_composition, draw_markers, marker_factors, pair_levels
from sagefm.errors import ArgumentError

_ABUNDANCE_SD = 1.2
_PROGRAM_SHARE = 0.3
#: Spots, sections, pairs: a simulation is kept in memory.
_MAX_NUMBER = 1_000_000
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
    decoys: Sequence[str] = ("domain",),
    strength: float = 0.5,
    median_counts: float = 5000.0,
    depth_sd: float = 0.4,
    domain_sd: float = 0.5,
    donor_sd: float = 0.3,
    factor_sd: float = 0.6,
    field_length: float = 8.0,
    bleed: float = 0.0,
    inverse_dispersion: float = 10.0,
    return_rates: bool = False,
    rng: int | np.random.Generator = 0,
) -> AnnData:
    r"""Simulate hexagonal sections with domains, planted effects of the neighbors on the center, and decoys.

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
        Pairs without an effect, of each kind in `decoys`.
        No gene is in two pairs: ``2 * (n_effects + n_decoys * len(decoys)) <= n_genes``.
    decoys
        What the two genes of a decoy share:

        - ``"domain"``: a domain program;
        - ``"cell_type"``: both are markers of one of 6 cell types, which are mixed in every spot. Each type has other
          markers too, 4 % of all genes;
        - ``"factor"``, ``"white_factor"``, ``"field"``: a factor that no other gene has. It varies within about 2
          pitches (distances between adjacent spots), from spot to spot, or within about `field_length` pitches;
        - ``"absent"``: nothing.
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
    factor_sd
        Standard deviation of a factor or field that the genes of a decoy share, in log rate.
    field_length
        Length of the fields of ``"field"`` decoys, in pitches: the distance at which their correlation is 1/e.
    bleed
        Share of the expected counts of a spot that comes from its 6 nearest spots, less than 1.
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
          0 for decoys), ``kind`` ("planted" or the kind of decoy).
        - ``uns["simulation"]``: the parameters.
        - ``obsm["cell_types"]``: share of each cell type in each spot, with ``"cell_type"`` decoys.
        - ``layers["rate"]``: the expected counts :math:`\bar\lambda`, float32, with `return_rates`.

    Raises
    ------
    ArgumentError
        An argument is outside its range.

    Notes
    -----
    Spot :math:`i` of section :math:`s` and domain :math:`d`, gene :math:`g`, the 14 nearest spots :math:`N(i)`
    (spots at the same distance are taken in the order of the table):

    .. math::

        x_{ig} &= \beta_{dg} + a_{ig} + c_{ig}
            && \beta_{dg} \sim N(0, \text{domain\_sd}^2), \quad a_{ig} \sim N(0, 1) \\
        \pi_{ig} &= \frac{\exp(\mu_g + \delta_{sg} + x_{ig})}{\sum_h \exp(\mu_h + \delta_{sh} + x_{ih})}
            && \mu_g \sim N(0, 1.2^2), \quad \delta_{sg} \sim N(0, \text{donor\_sd}^2) \\
        m_{ig} &= \operatorname{standardize}_s\Big(\tfrac{1}{14} \textstyle\sum_{j \in N(i)} x_{jg}\Big) \\
        \lambda_{ig} &= L_i \, \pi_{ig} \, \exp(\text{strength}_g \, m_{i,\text{source}(g)})
            && \log L_i \sim N(\log \text{median\_counts}, \text{depth\_sd}^2) \\
        \bar\lambda_{ig} &= (1 - \text{bleed}) \, \lambda_{ig}
            + \text{bleed} \; \tfrac{1}{6} \textstyle\sum_{j \in N_6(i)} \lambda_{jg} \\
        y_{ig} &\sim \text{NB}(\text{mean } \bar\lambda_{ig}, \text{inverse dispersion } \theta)

    - :math:`x` is the latent expression. The activity :math:`a` is drawn for every spot, and only for sources and for
      the targets of ``"absent"`` pairs (it is 0 for all other genes). Beyond the domain, the level of a planted source
      in the neighbors says nothing about its level in the center: effects act from neighbor to center, not within a
      spot.
    - :math:`c` is what decoys share (0 for all other genes): factor_sd times a Gaussian field of mean 0 and variance 1
      in the section, with correlation :math:`\exp(-(\text{distance}/\text{length})^2)`, or times white noise; or, for
      markers of a cell type whose share in the spot is :math:`w_i`, :math:`\log(1 + 7 w_i)`.
    - The exponential factor of :math:`\lambda` is 1 for all genes but planted targets. It multiplies the rate after
      normalization: no other gene changes, and the library size grows.
    - A program :math:`\beta` is zero for 70 % of domains and genes. Sources of planted pairs and ``"domain"`` decoys,
      however, have a program in every domain, and the target of such a decoy shares that of its source.
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
    {'planted': 10, 'domain': 10}
    """
    kinds = check_kinds(decoys)
    parameters: dict[str, Any] = {
        "n_spots": n_spots, "n_genes": n_genes, "n_sections": n_sections, "n_domains": n_domains,
        "n_effects": n_effects, "n_decoys": n_decoys, "decoys": kinds, "strength": strength,
        "median_counts": median_counts, "depth_sd": depth_sd, "domain_sd": domain_sd, "donor_sd": donor_sd,
        "factor_sd": factor_sd, "field_length": field_length, "bleed": bleed, "inverse_dispersion": inverse_dispersion,
    }  # fmt: skip
    _check(parameters)
    if isinstance(rng, np.random.Generator):
        parameters["rng"] = "generator"
    else:
        parameters["rng"] = as_seed(rng)
        rng = np.random.default_rng(parameters["rng"])

    kind = np.array(["planted"] * n_effects + [name for name in kinds for _ in range(n_decoys)], dtype=object)
    abundance = rng.normal(0.0, _ABUNDANCE_SD, n_genes)
    sources, targets = _draw_pairs(abundance, len(kind), rng)
    planted, same_domain = kind == "planted", kind == "domain"
    signed = strength * np.linspace(0.5, 1.0, n_effects) * (-1.0) ** np.arange(n_effects)
    # Log fold changes of domains (n_domains, n_genes), most of them zero.
    programs = rng.normal(0.0, domain_sd, (n_domains, n_genes)) * (rng.random((n_domains, n_genes)) < _PROGRAM_SHARE)
    with_program = sources[planted | same_domain]
    programs[:, with_program] = rng.normal(0.0, domain_sd, (n_domains, len(with_program)))
    programs[:, targets[same_domain]] = programs[:, sources[same_domain]]
    markers, marker_types = draw_markers(sources, targets, kind, n_genes, rng)

    array = lattice(n_spots)
    coordinates = array[:, ::-1] * (PITCH / 2) * np.array([1.0, math.sqrt(3.0)])
    neighbors = nearest(array)
    mixing = neighbor_mixing(array, bleed) if bleed else None

    domains, compositions, counts, rates = [], [], [], []
    for _ in range(n_sections):
        domain = grow_domains(coordinates, n_domains, rng)
        profile = np.exp(abundance + rng.normal(0.0, donor_sd, n_genes) + programs)
        depth = median_counts * np.exp(depth_sd * rng.standard_normal(n_spots))
        source, target = pair_levels(kind, coordinates, factor_sd=factor_sd, field_length=field_length, rng=rng)
        latent = programs[:, sources[planted]][domain] + source[:, planted]
        mean = latent[neighbors].mean(axis=1)
        effect = np.exp(signed * (mean - mean.mean(axis=0)) / mean.std(axis=0))
        composition = draw_composition(coordinates, rng) if len(markers) else np.empty((n_spots, 0))
        section = _Section(
            profile, domain, depth,
            np.concatenate([sources, targets]), np.hstack([source, target]),
            markers, marker_types, marker_factors(composition),
            targets[planted], effect,
        )  # fmt: skip
        # Blocks of rows: only the rates, if asked for, are ever dense as a whole.
        for start in range(0, n_spots, BLOCK_ROWS):
            rows = np.arange(start, min(start + BLOCK_ROWS, n_spots))
            rate = section.rates(rows) if mixing is None else section.mixed_rates(rows, mixing)
            noise = rng.standard_gamma(inverse_dispersion, rate.shape) / inverse_dispersion
            counts.append(sparse.csr_matrix(rng.poisson(rate * noise).astype(np.float32)))
            if return_rates:
                rates.append(rate.astype(np.float32))
        domains.append(domain)
        compositions.append(composition)

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
            "strength": np.concatenate([signed, np.zeros(len(kind) - n_effects)]),
            "kind": kind,
        },
        index=[str(i) for i in range(len(sources))],
    )
    obsm = {SPATIAL_KEY: np.tile(coordinates, (n_sections, 1))}
    if len(markers):
        obsm["cell_types"] = np.concatenate(compositions)
    return AnnData(
        X=sparse.csr_matrix(sparse.vstack(counts, format="csr")),
        obs=obs,
        var=pd.DataFrame(index=genes),
        obsm=obsm,
        layers={"rate": np.concatenate(rates)} if return_rates else None,
        uns={"truth": truth, "simulation": parameters},
    )


@dataclass(frozen=True)
class _Section:
    """What the expected counts of a section are computed from, row by row; equations in :func:`simulate`."""

    profile: NDArray[np.float64]  # (n_domains, n_genes)
    domain: NDArray[np.int64]  # (n_spots,)
    depth: NDArray[np.float64]  # (n_spots,)
    pair_genes: NDArray[np.int64]  # (2 n_pairs,)
    levels: NDArray[np.float64]  # log, of pair_genes (n_spots, 2 n_pairs)
    markers: NDArray[np.int64]  # (n_markers,)
    marker_types: NDArray[np.int64]  # (n_markers,)
    factors: NDArray[np.float64]  # of the markers of each cell type (n_spots, n_cell_types)
    targets: NDArray[np.int64]  # (n_effects,)
    effects: NDArray[np.float64]  # factors (n_spots, n_effects)

    def rates(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return expected counts, without bleed (n_rows, n_genes)."""
        rate = self.profile[self.domain[rows]]
        rate[:, self.pair_genes] *= np.exp(self.levels[rows])
        rate[:, self.markers] *= self.factors[rows][:, self.marker_types]
        rate *= (self.depth[rows] / rate.sum(axis=1))[:, None]
        rate[:, self.targets] *= self.effects[rows]
        return rate

    def mixed_rates(self, rows: NDArray[np.int64], mixing: sparse.csr_matrix) -> NDArray[np.float64]:
        """Return expected counts, mixed among neighbors (n_rows, n_genes)."""
        weights = mixing[rows]
        around = np.unique(weights.indices)
        return weights[:, around] @ self.rates(around)


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
        if name == "decoys":
            continue
        if name in least:
            whole_number(value, name=name, minimum=least[name], maximum=_MAX_NUMBER)
            continue
        number(value, name=name, is_valid=lambda _: True, expected="a number")
        if name.endswith("_sd"):
            allowed, expected = 0 <= value <= _MAX_LOG, f"0 to {_MAX_LOG:g}, in natural-log units"
        elif name == "bleed":
            allowed, expected = 0 <= value < 1, "0 to less than 1, a share of the counts"
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
    n_effects, n_decoys, kinds = parameters["n_effects"], parameters["n_decoys"], parameters["decoys"]
    taken = 2 * (n_effects + n_decoys * len(kinds))
    if taken > n_genes:
        of_kinds = f" of each of {len(kinds)} kinds" if len(kinds) > 1 else ""
        raise ArgumentError(
            f"n_effects={n_effects} and n_decoys={n_decoys}{of_kinds} take {taken} genes, a source "
            f"and a target for each pair; found n_genes={n_genes}. Pass n_genes={taken} or more, or fewer pairs."
        )
