"""Couplings of a table: pairs of named genes or of all, section by section, and combined by donor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from scipy import sparse, stats

from sagefm.data._blocks import to_memory
from sagefm.data._genes import assign_folds
from sagefm.data._turns import overlapping_turns
from sagefm.errors import ArgumentError, GenesError
from sagefm.inference._couplings import N_FOLDS, SectionFields
from sagefm.inference._pairs import subunits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from sagefm.data._genes import Vocabulary
    from sagefm.data._section import Section

    Numbers = dict[str, NDArray[np.float32]]

#: Of all genes, those seen in this share of the spots are tested.
MIN_SEEN: Final = 0.05
#: Up to this many pairs of named genes are all kept; of more, or of all genes, those with a q-value below `MAX_Q`.
KEEP_ALL: Final = 1_000_000
MAX_Q: Final = 0.05
#: Pairs that are combined over sections: ten numbers are held of each.
_MAX_COMBINED: Final = 25_000_000
#: Pairs that are compared at a time: some ten arrays of 4 MB.
_BLOCK_SOURCES, _BLOCK_TARGETS = 512, 2048
#: Genes on either side whose fields are turned on the tissue.
_TURNED_GENES: Final = 500
#: An effect of 2.8 standard errors is found with a power of .8 at p < .05.
_DETECTABLE: Final = float(stats.norm.isf(0.025) + stats.norm.isf(0.2))
_COLUMNS: Final = (
    "source", "target", "effect", "se", "r", "shared", "z", "pval", "qval", "same_spot", "detectable_effect", "n_spots",
)  # fmt: skip
#: Share of all p-values that is below `MAX_Q` in a section, at most: where there are more, pairs are scored once again.
_LIKELY_SHARE: Final = 0.2
#: Averaged over sections, weighted by their spots.
_AVERAGED: Final = ("r", "shared", "same_spot")
#: Where p-values of turned tissue are compared with those expected.
_LEVELS: Final = np.array([0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0001])


class GeneSet(NamedTuple):
    """Names of genes or complexes, and the vocabulary positions of each: one, or those of the subunits."""

    names: list[str]
    members: list[NDArray[np.int64]]

    def membership(self, n_genes: int) -> sparse.csr_matrix:
        """Return ones where a name holds a gene (n_names, n_genes)."""
        rows = np.repeat(np.arange(len(self.members)), [len(genes) for genes in self.members])
        return sparse.csr_matrix((np.ones(len(rows)), (rows, np.concatenate(self.members))), (len(self.names), n_genes))


class DonorSection(NamedTuple):
    """A section, its donor, and the counts expected of its genes (n_spots, n_genes), if not from depth alone."""

    section: Section
    donor: str
    expected: NDArray[np.float32] | None = None


class Network(NamedTuple):
    """What :func:`sagefm.tl.regulatory_network` writes.

    Attributes
    ----------
    edges
        The pairs.
    n_pairs
        Number of pairs tested.
    null
        p-values of turned tissue.
    around, center
        Adjusted residuals, standardized: of sources around spots (n_spots, n_sources), and of targets at them
        (n_spots, n_targets). The index holds rows of the table.
    """

    edges: pd.DataFrame
    n_pairs: int
    null: pd.DataFrame | None = None
    around: pd.DataFrame | None = None
    center: pd.DataFrame | None = None


class Tested(NamedTuple):
    """Which pairs are tested: those that share no gene, and of these the wanted ones (n_sources, n_targets); and kept."""

    same_gene: sparse.csr_matrix
    wanted: sparse.csr_matrix | None
    keep_all: bool

    @property
    def n_pairs(self) -> int:
        """Number of pairs."""
        n_sources, n_targets = self.same_gene.shape
        return int(n_sources * n_targets if self.wanted is None else self.wanted.nnz)

    def block(self, *indices: Any) -> NDArray[np.bool_]:
        """Return whether the pairs of a block are tested."""
        tested = self.same_gene[indices].toarray() == 0
        return tested if self.wanted is None else tested & (self.wanted[indices].toarray() != 0)


class Pairs(Protocol):
    """Pairs of sources and targets that are scored block by block."""

    def numbers(self, sources: slice, targets: slice) -> Numbers:
        """Return the numbers of a block of pairs, each (n_sources, n_targets); NaN where a gene has no counts."""


def find_genes(names: Sequence[str], vocabulary: Vocabulary, *, argument: str) -> GeneSet:
    """Return genes and complexes by name; raise for those that were not measured."""
    position = vocabulary.position
    names = list(dict.fromkeys(str(name) for name in names))
    parts = [subunits(name, vocabulary) for name in names]
    unknown = [name for name, genes in zip(names, parts, strict=True) if not all(gene in position for gene in genes)]
    if unknown:
        raise GenesError(
            f"{argument}: not measured in this table: {unknown[:5]} ({len(unknown)} in all). Expected names of genes, "
            f"or of complexes as subunits joined by '_'. Leave these out; adata.var_names lists what there is."
        )
    return GeneSet(names, [np.array([position[gene] for gene in genes]) for genes in parts])


def seen_genes(sections: Iterable[Section], vocabulary: Vocabulary) -> GeneSet:
    """Return the genes that were seen in at least `MIN_SEEN` of the spots."""
    seen, n_spots = np.zeros(len(vocabulary)), 0
    for section in sections:
        seen[section.genes] += to_memory(section.counts).getnnz(axis=0)
        n_spots += section.n_spots
    kept = np.flatnonzero(seen >= MIN_SEEN * n_spots)
    return GeneSet([vocabulary.symbols[i] for i in kept], [np.array([i]) for i in kept])


def couple(
    sections: Iterable[DonorSection],
    vocabulary: Vocabulary,
    sources: GeneSet,
    targets: GeneSet,
    *,
    wanted: sparse.csr_matrix | None = None,
    keep_all: bool = True,
    several: bool = False,
    n_components: int = 20,
    neighborhood: bool = True,
    rotate: bool = False,
    keep_fields: bool = False,
    device: torch.device,
    done: Callable[[int], object] | None = None,
) -> Network:
    """Return the couplings of sources and targets in each section, and with `several` combined by donor.

    All pairs are tested, or those that are `wanted` (n_sources, n_targets), but for those that share a gene. Sections
    are read one at a time, those of one donor one after the other. ``neighborhood=False`` reads the source at the spot
    itself. `done` is told how many pairs were scored.
    """
    n_genes, shape = len(vocabulary), (len(sources.names), len(targets.names))
    if several and shape[0] * shape[1] > _MAX_COMBINED:
        raise ArgumentError(
            f"Found {shape[0]:,} sources x {shape[1]:,} targets in several sections; expected at most "
            f"{_MAX_COMBINED:,} pairs to combine. Name fewer: sources=[...], targets=[...]"
        )
    tested = Tested(sparse.csr_matrix(sources.membership(n_genes) @ targets.membership(n_genes).T), wanted, keep_all)
    combined = Combined(shape if several else (0, 0))
    tables, nulls, fields, n_pairs = [], [], [], 0
    for section, donor, expected in sections:
        pairs = SectionPairs(section, n_genes, sources, targets, n_components, neighborhood, expected, device)
        table, n_pairs = _select(pairs, sources, targets, tested, done=done)
        tables.append(table.assign(library=section.name, n_spots=section.n_spots))
        if rotate:
            nulls.append(pairs.turned(tested).assign(library=section.name))
        if keep_fields:
            fields.append(pairs.at_spots(sources.names, targets.names))
        if several:
            combined.add(pairs, donor, section.n_spots)
    if several:
        combined.close_donor()
        table, n_pairs = _select(combined, sources, targets, tested)
        tables.insert(0, table.assign(library="combined", n_spots=combined.n_spots))
    edges = pd.concat(tables, ignore_index=True)[[*_COLUMNS, "library"]]
    null = pd.concat(nulls, ignore_index=True) if rotate else None
    if not several:
        edges, null = edges.drop(columns="library"), None if null is None else null.drop(columns="library")
    around, center = map(pd.concat, zip(*fields, strict=True)) if keep_fields else (None, None)
    return Network(edges, n_pairs, null, around, center)


class SectionPairs:
    """Pairs of sources and targets in one section."""

    def __init__(
        self,
        section: Section,
        n_genes: int,
        sources: GeneSet,
        targets: GeneSet,
        n_components: int,
        neighborhood: bool,
        expected: NDArray[np.float32] | None,
        device: torch.device,
    ) -> None:
        counts = to_memory(section.counts).tocsc()
        # Genes that this section did not measure have no counts.
        indptr = np.zeros(n_genes + 1, dtype=counts.indptr.dtype)
        indptr[section.genes + 1] = np.diff(counts.indptr)
        counts = sparse.csc_matrix((counts.data, counts.indices, np.cumsum(indptr)), shape=(section.n_spots, n_genes))
        self.section, self.same_spot, self.device = section, not neighborhood, device
        self.fields = SectionFields(
            counts,
            section.neighbors,
            section.coordinates,
            assign_folds(np.arange(n_genes), n_genes, N_FOLDS, 0),
            n_components=n_components,
            expected=expected,
            device=device,
        )
        if sources is targets:
            self.sources = self.targets = self.fields.of(sources.members)
        else:
            self.sources, self.targets = self.fields.of(sources.members), self.fields.of(targets.members)

    def numbers(self, sources: slice, targets: slice) -> Numbers:
        """Return effect, its standard error, z, correlations, and the smallest effect that would be detected."""
        pair = self.fields.compare(self.sources[sources], self.targets[targets], same_spot=self.same_spot)
        unit = self.targets.unit[targets]
        z = pair.z
        values = {
            "effect": z * pair.sd * unit,
            "se": pair.sd * unit,
            "r": pair.r,
            "shared": pair.shared,
            "z": z,
            "same_spot": pair.same_spot,
            "detectable_effect": (pair.shared + _DETECTABLE * pair.sd) * unit,
        }
        silent = (self.sources.unit[sources] == 0)[:, None] | (unit == 0)
        return {name: value.masked_fill(silent, torch.nan).cpu().numpy() for name, value in values.items()}

    def at_spots(self, sources: list[str], targets: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the sources around the spots and the targets at them; NaN for genes without counts."""
        compared = self.sources.center if self.same_spot else self.sources.around
        around, center = (
            values.masked_fill(genes.unit == 0, torch.nan).cpu().numpy()
            for values, genes in ((compared, self.sources), (self.targets.center, self.targets))
        )
        rows = self.section.rows
        return pd.DataFrame(around, rows, sources), pd.DataFrame(center, rows, targets)

    def turned(self, tested: Tested) -> pd.DataFrame:
        """Return the share of pairs with p below some levels, with the tissue of the sources turned and as it is.

        Of more than `_TURNED_GENES` sources or targets, as many evenly spaced ones are compared.
        """
        rows, columns = (
            np.unique(np.linspace(0, n - 1, min(n, _TURNED_GENES)).astype(int)) for n in tested.same_gene.shape
        )
        compared = tested.same_gene[np.ix_(rows, columns)].toarray() == 0
        sources, targets = self.sources[torch.from_numpy(rows)], self.targets[torch.from_numpy(columns)]
        below, n_turns = np.zeros(len(_LEVELS)), 0
        for spots, moved in overlapping_turns(self.section.coordinates):
            pair = self.fields.compare(
                sources.at(torch.from_numpy(moved)), targets.at(torch.from_numpy(spots)), same_spot=self.same_spot
            )
            below, n_turns = below + self._share_below(pair.z, compared), n_turns + 1
        observed = self._share_below(self.fields.compare(sources, targets, same_spot=self.same_spot).z, compared)
        turned = below / n_turns if n_turns else np.full(len(_LEVELS), np.nan)
        return pd.DataFrame({"level": _LEVELS, "turned": turned, "observed": observed, "n_turns": n_turns})

    @staticmethod
    def _share_below(z: torch.Tensor, compared: NDArray[np.bool_]) -> NDArray[np.float64]:
        pval = np.sort(2 * stats.norm.sf(np.abs(z.cpu().numpy()[compared])))
        return np.searchsorted(pval, _LEVELS) / max(len(pval), 1)


class Combined:
    """Pairs summed over sections: those of a donor add up to one z (Stouffer), and donors likewise.

    Effects are weighted by 1 / se^2, correlations by the number of spots.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        names = ("weight", "effect", "spots", *_AVERAGED, "donor_z", "donor_n", "z", "n")
        self.sums = {name: np.zeros(shape, dtype=np.float32) for name in names}
        self.shape = shape
        self.donor, self.n_spots = "", 0

    def add(self, pairs: Pairs, donor: str, n_spots: int) -> None:
        """Add a section; sections of a donor follow each other."""
        if donor != self.donor:
            self.close_donor()
        self.donor, self.n_spots = donor, self.n_spots + n_spots
        for block in blocks(self.shape):
            values = pairs.numbers(*block)
            known = np.isfinite(values["z"])
            weight = np.where(known, 1 / values["se"] ** 2, 0)
            terms: dict[str, Any] = {
                "weight": weight,
                "effect": weight * values["effect"],
                "spots": n_spots,
                **{name: n_spots * values[name] for name in _AVERAGED},
                "donor_z": values["z"],
                "donor_n": 1,
            }
            for name, term in terms.items():
                self.sums[name][block] += np.where(known, term, 0)

    def close_donor(self) -> None:
        """Add the donor's z to those of the others."""
        sums = self.sums
        sums["z"] += sums["donor_z"] / np.sqrt(np.maximum(sums["donor_n"], 1))
        sums["n"] += sums["donor_n"] > 0
        sums["donor_z"][:] = sums["donor_n"][:] = 0

    def numbers(self, sources: slice, targets: slice) -> Numbers:
        """Return the numbers of a block of pairs over all sections."""
        sums = {name: values[sources, targets] for name, values in self.sums.items()}
        with np.errstate(divide="ignore", invalid="ignore"):
            se = 1 / np.sqrt(sums["weight"])
            return {
                "effect": sums["effect"] / sums["weight"],
                "se": se,
                **{name: sums[name] / sums["spots"] for name in _AVERAGED},
                "z": sums["z"] / np.sqrt(sums["n"]),
                "detectable_effect": _DETECTABLE * se,
            }


def blocks(shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Yield blocks of sources and targets."""
    for row in range(0, shape[0], _BLOCK_SOURCES):
        for column in range(0, shape[1], _BLOCK_TARGETS):
            yield slice(row, row + _BLOCK_SOURCES), slice(column, column + _BLOCK_TARGETS)


def _select(
    pairs: Pairs,
    sources: GeneSet,
    targets: GeneSet,
    tested: Tested,
    *,
    share: float = _LIKELY_SHARE,
    done: Callable[[int], object] | None = None,
) -> tuple[pd.DataFrame, int]:
    """Return all pairs, or of many those with a q-value below `MAX_Q`, by p-value; and how many were tested.

    With a `share` of the p-values below `MAX_Q`, no pair with a p-value above ``share * MAX_Q`` has a q-value below it.
    """
    keep_all = tested.keep_all and tested.n_pairs <= KEEP_ALL
    least_z = 0.0 if keep_all else float(stats.norm.isf(share * MAX_Q / 2))
    parts, n_tested, n_below = [], 0, 0
    for block in blocks(tested.same_gene.shape):
        values = pairs.numbers(*block)
        known = np.isfinite(values["z"]) & tested.block(*block)
        n_tested += int(known.sum())
        n_below += int((known & (np.abs(values["z"]) >= stats.norm.isf(MAX_Q / 2))).sum())
        row, column = np.nonzero(known & (np.abs(values["z"]) >= least_z))
        part = pd.DataFrame({name: value[row, column] for name, value in values.items()})
        part.insert(0, "source", row.astype(np.int32) + block[0].start)
        part.insert(1, "target", column.astype(np.int32) + block[1].start)
        parts.append(part)
        if done is not None:
            done(values["z"].size)
    if not keep_all and n_below > share * n_tested:
        return _select(pairs, sources, targets, tested, share=1.0)
    table = pd.concat(parts, ignore_index=True)
    table["pval"] = 2 * stats.norm.sf(np.abs(table["z"].to_numpy(dtype=np.float64)))
    table = table.sort_values(["pval", "source", "target"], kind="stable", ignore_index=True)
    # Benjamini and Hochberg over all that were tested; those that were not kept do not change a q-value below the bound.
    ratio = table["pval"].to_numpy() * n_tested / np.arange(1, len(table) + 1)
    table["qval"] = np.minimum(np.minimum.accumulate(ratio[::-1])[::-1], 1)
    if not keep_all:
        table = table[table["qval"] < MAX_Q].reset_index(drop=True)
    for side, genes in (("source", sources), ("target", targets)):
        table[side] = pd.Index(genes.names).take(table[side])
    return table, n_tested
