"""Imputation of a section: every gene predicted where it is hidden, by predictors that are stacked.

A :class:`Mask` is a fold of genes that is hidden at a time. For each, :class:`Stack` reads what is visible
(:mod:`sagefm.inference._visible`), fits the predictors (:mod:`sagefm.inference._predictors`) for each part of the spots
to hidden counts of the others, and their weights (:mod:`sagefm.inference._stacking`) to predictions of spots that those
have not read. :func:`predict` reads the section block by block of spots.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from sagefm.data._blocks import iter_blocks
from sagefm.inference._parts import draw_sample, random_parts, tiles
from sagefm.inference._predictors import FactorModel, Hidden, Neighbors, Network, Ridge, Spots
from sagefm.inference._stacking import bin_names, bins, fit_weights, genes_to_fit, prior_weights
from sagefm.inference._visible import informative_genes, read_visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from sagefm.inference._layout import Layout
    from sagefm.inference._network_reader import NetworkReader
    from sagefm.inference._parts import Parts
    from sagefm.inference._predictors import Fitted, Predictor
    from sagefm.inference._visible import Visible

#: Spots that weights are fitted on, at most and at least, and genes that predictors are fitted to at a time.
_N_WEIGHED: Final = 640
_MIN_SPOTS: Final = 10
_CHUNK: Final = 1024
#: Counts of a gene in the spots that are read below which the network alone predicts it.
_MIN_COUNTS: Final = 10


@dataclass(frozen=True)
class Mask:
    """Genes that are predicted while some folds are hidden.

    Attributes
    ----------
    hidden, shown
        Folds that are hidden, and the others.
    fold
        Range of the genes that are predicted.
    columns
        Those among them that are asked for (n_columns,).
    parts
        Parts of the spots that are predicted under this mask.
    """

    hidden: list[int]
    shown: list[int]
    fold: slice
    columns: NDArray[np.int64]
    parts: list[int]


class SectionSpots:
    """The spots of a section that predictors are fitted on, and the parts that they are predicted in.

    `reads_neighbors` tells that a hidden gene is shown at the neighbors (``mask="center"``).
    """

    def __init__(self, layout: Layout, names: pd.Index, mask: str, rng: int) -> None:
        section = layout.section
        self.layout, self.rng, self.reads_neighbors = layout, rng, mask == "center"
        self.neighbors = section.neighbors
        self.parts: Parts = (
            random_parts(names, rng) if self.reads_neighbors else tiles(section.coordinates, section.neighbors)
        )
        self.sample = draw_sample(names, section.neighbors, rng)
        # By gene, since genes are taken from it in many ways.
        self.counts = sparse.csc_matrix(layout.counts[self.sample])
        self.near = sparse.csr_matrix(section.neighbors[self.sample][:, self.sample])

    def informative(self, readable: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
        """Return the informative genes of each fold, by the counts of spots that may be read."""
        if readable.all():
            return self._informative
        return informative_genes(self.counts[readable[self.sample]], self.layout.folds)

    @cached_property
    def _informative(self) -> list[NDArray[np.int64]]:
        return informative_genes(self.counts, self.layout.folds)

    def masks(self, requested: NDArray[np.int64], n_hidden: int) -> list[Mask]:
        """Return the masks under which genes of the vocabulary are predicted."""
        folds, n_folds = self.layout.folds, len(self.layout.folds)
        is_requested = np.isin(self.layout.genes, requested)
        every = list(range(self.parts.n_parts))
        if n_hidden >= n_folds:
            # All counts of a spot are hidden: nothing at all may have been fitted to them.
            columns = np.flatnonzero(is_requested)
            every = [part for part in every if (self.parts.part == part).any()]
            whole = slice(0, len(self.layout.genes))
            return [Mask(list(range(n_folds)), [], whole, columns, [part]) for part in every if len(columns)]
        masks = []
        for i, fold in enumerate(folds):
            columns = np.flatnonzero(is_requested[fold]) + fold.start
            hidden = sorted({(i + j) % n_folds for j in range(n_hidden)})
            shown = [j for j in range(n_folds) if j not in hidden]
            if len(columns):
                masks.append(Mask(hidden, shown, fold, columns, every))
        return masks

    def visible_neighbors(self, mask: Mask) -> sparse.csr_matrix:
        """Return the neighbors that may be read around each spot: all, unless spots hide all of their counts."""
        if mask.shown:
            return self.neighbors
        (part,) = mask.parts
        graph = sparse.coo_matrix(self.neighbors)
        kept = self.parts.readable[part][graph.col]
        if self.reads_neighbors:
            kept |= self.parts.part[graph.row] == part
        edges = graph.data[kept], (graph.row[kept], graph.col[kept])
        return sparse.csr_matrix(edges, shape=graph.shape)


class Chunk(NamedTuple):
    """Predictors of the requested genes at some places, fitted for each part, and the weights of each gene there."""

    places: NDArray[np.int64]
    fitted: dict[int, list[Fitted]]
    weights: dict[int, NDArray[np.float32]]


class Stack:
    """Predictors of the genes of a mask, and their weights.

    Attributes
    ----------
    predictors
        By name.
    weights
        Weight of each predictor in each bin of expression, for each part of the spots (n_bins, n_predictors).
    """

    def __init__(self, spots: SectionSpots, mask: Mask, reader: NetworkReader | None) -> None:
        self.spots, self.mask = spots, mask
        # For all parts of a mask the same spots may be read of what is visible.
        self.fitted_on = np.ones(len(spots.parts.part), dtype=bool)
        if not mask.shown:
            self.fitted_on = spots.parts.readable[mask.parts[0]]
        self.visible, self.predictors = self._read(reader)
        self.sizes = self.visible.sizes[spots.sample]
        self.weights = {part: self._fit_weights(part) for part in mask.parts}
        sums = self._sums(mask.columns)
        is_rare = (sums < _MIN_COUNTS).all(axis=0)
        self.chunks = []
        for genes in (np.flatnonzero(~is_rare), np.flatnonzero(is_rare)):
            chunks = np.split(genes, range(_CHUNK, len(genes), _CHUNK))
            self.chunks += [self._fit(chunk, sums[:, chunk]) for chunk in chunks if len(chunk)]

    @property
    def needs_around(self) -> bool:
        """Whether neighbors' counts of hidden genes have any weight, or are to be left out of the profile."""
        if not self.spots.reads_neighbors:
            return True
        place = list(self.predictors).index("neighbors")
        return any(weights[:, place].any() for weights in self.weights.values())

    def expected(self, spots: Spots, null: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return expected counts of the requested genes of the mask (n_rows, n_columns)."""
        return null * np.exp(self.log_ratio(spots))

    def log_ratio(self, spots: Spots) -> NDArray[np.float32]:
        """Return the log rate ratios of these genes (n_rows, n_columns)."""
        result = np.zeros_like(spots.counts)
        part_of = self.spots.parts.part[spots.rows]
        for part in self.mask.parts:
            places = np.flatnonzero(part_of == part)
            if not len(places):
                continue
            for chunk in self.chunks:
                own = np.ix_(places, chunk.places)
                around = None if spots.around is None else spots.around[own]
                sizes = None if spots.around_sizes is None else spots.around_sizes[places]
                some = Spots(spots.rows[places], spots.counts[own], around, sizes)
                result[own] = _sum(chunk.fitted[part], chunk.weights[part], some)
        return result

    def _read(self, reader: NetworkReader | None) -> tuple[Visible, dict[str, Predictor]]:
        """Return what is visible, and the predictors that read it."""
        spots, mask = self.spots, self.mask
        layout, sample, neighbors = spots.layout, spots.sample, spots.visible_neighbors(mask)
        z = None
        if reader is not None and mask.shown:
            z = reader.embed_visible(mask.shown)
        elif reader is not None:
            z = reader.embed_around(neighbors, self.fitted_on)
        folds = mask.shown or mask.hidden
        visible = read_visible(
            layout.counts,
            layout.depths(mask.shown),
            np.concatenate([spots.informative(self.fitted_on)[i] for i in folds]),
            neighbors,
            sample,
            self.fitted_on,
            shows_center=bool(mask.shown),
            embedding=None if z is None else z.cpu().numpy(),
            rng=spots.rng,
        )
        predictors: dict[str, Predictor] = {}
        if reader is not None and z is not None:
            embedding, genes = z, layout.genes
            predictors["network"] = Network(
                lambda rows, columns: reader.output(embedding[torch.from_numpy(rows)], genes[columns]).cpu().numpy()
            )
        if visible.weights is not None:
            predictors["factors"] = FactorModel(visible, sample)
        predictors["ridge" if mask.shown else "surroundings"] = Ridge(visible, sample)
        if spots.reads_neighbors:
            predictors["neighbors"] = Neighbors()
        return visible, predictors

    def _readable(self, others: NDArray[np.bool_], inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the sampled spots that are read by predictors which take out a spot's own counts.

        These are all `inside`, if a spot's hidden counts are seen nowhere but in its own row; `others`, if not.
        """
        return inside if self.spots.reads_neighbors and self.mask.shown else others

    def _sums(self, columns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the counts of genes at the sampled spots that may be read for each part of the mask (n_parts, n_genes)."""
        readable = self.spots.parts.readable[self.mask.parts][:, self.spots.sample]
        return np.asarray(readable.astype(np.float64) @ self.spots.counts[:, columns])

    def _fit(self, places: NDArray[np.int64], sums: NDArray[np.float64]) -> Chunk:
        """Fit the predictors of some requested genes, with their `sums` for each part (n_parts, n_genes)."""
        spots, columns = self.spots, self.mask.columns[places]
        # Of genes that are hardly seen the section says nothing.
        is_seen = sums >= _MIN_COUNTS
        is_used = np.array([bool(is_seen.any()) or name == "network" for name in self.predictors])
        used = [predictor for predictor, use in zip(self.predictors.values(), is_used, strict=True) if use]
        from_section = np.array([name != "network" for name in self.predictors])
        counts = spots.counts[:, columns].toarray()
        every = np.ones(len(counts), dtype=bool)
        fitted, weights = {}, {}
        for part, own_sums, seen in zip(self.mask.parts, sums, is_seen, strict=True):
            others = spots.parts.readable[part][spots.sample]
            hidden = Hidden.of(columns, counts, others, self._readable(others, every), self.sizes)
            fitted[part] = [predictor.fit(hidden) for predictor in used]
            of_genes = self.weights[part][bins(own_sums / max(others.sum(), 1))].T.astype(np.float32)
            of_genes[np.ix_(from_section, ~seen)] = 0
            weights[part] = of_genes[is_used]
        return Chunk(places, fitted, weights)

    def _fit_weights(self, part: int) -> NDArray[np.float64]:
        """Return weights for a part, from predictions of hidden counts in the others, each of which left it out, too."""
        spots, sizes = self.spots, self.sizes
        part_of, readable = spots.parts.part[spots.sample], spots.parts.readable[:, spots.sample]
        inside = readable[part]
        of_fold = spots.counts[:, self.mask.fold]
        means = np.asarray(inside @ of_fold).ravel() / max(inside.sum(), 1)
        columns = genes_to_fit(means)
        genes, counts = columns + self.mask.fold.start, of_fold[:, columns].toarray()
        near = spots.near @ sparse.diags_array(inside.astype(np.float32))
        weighed = np.flatnonzero(inside)[:_N_WEIGHED]
        if len(weighed) < _MIN_SPOTS or not len(genes):
            return prior_weights(self.predictors)
        log_ratios, order = [], []
        for other in np.unique(part_of[weighed]):
            rows = weighed[part_of[weighed] == other]
            others = inside & readable[other]
            hidden = Hidden.of(genes, counts, others, self._readable(others, inside), sizes)
            own = Spots(spots.sample[rows], counts[rows], near[rows] @ counts, (near[rows] @ sizes)[:, None])
            log_ratios.append([predictor.fit(hidden).log_ratio(own) for predictor in self.predictors.values()])
            order.append(rows)
        rows = np.concatenate(order)
        profile = (counts[inside].sum(axis=0) - counts[rows] + 0.5) / (sizes[inside].sum() - sizes[rows, None])
        stacked = [np.concatenate(parts) for parts in zip(*log_ratios, strict=True)]
        return fit_weights(
            dict(zip(self.predictors, stacked, strict=True)),
            counts[rows],
            sizes[rows, None] * profile,
            bins(means[columns]),
        )


def _sum(fitted: list[Fitted], weights: NDArray[np.float32], spots: Spots) -> NDArray[np.float32]:
    """Return the weighted sum of log ratios; a predictor without weight is not asked."""
    terms = [w * predictor.log_ratio(spots) for predictor, w in zip(fitted, weights, strict=True) if w.any()]
    return np.asarray(sum(terms, start=np.zeros_like(spots.counts)), dtype=np.float32)


def mean_weights(stacks: list[Stack]) -> pd.DataFrame:
    """Return the weight of each predictor in each bin, mean over masks and parts; 0 where one could not be fitted."""
    frames = [pd.DataFrame(w, columns=list(stack.predictors)) for stack in stacks for w in stack.weights.values()]
    names = list(dict.fromkeys(name for frame in frames for name in frame))
    mean = np.mean([frame.reindex(columns=names, fill_value=0.0).to_numpy() for frame in frames], axis=0)
    table = pd.DataFrame(mean, columns=names).assign(bin=bin_names())
    return table.melt(id_vars="bin", var_name="predictor", value_name="weight")


class Alone:
    """A network as it was trained, with nothing fitted to the section."""

    def __init__(self, mask: Mask, reader: NetworkReader, *, everywhere: bool) -> None:
        self.mask, self.reader = mask, reader
        self.z = reader.embed(mask.shown, everywhere=everywhere)

    def expected(self, spots: Spots, null: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return expected counts of the requested genes of the mask (n_rows, n_columns)."""
        reader = self.reader
        return reader.expected(self.z[torch.from_numpy(spots.rows)], reader.layout.genes[self.mask.columns], null)


class Predicted(NamedTuple):
    """A block of spots under one mask.

    Attributes
    ----------
    rows
        Positions of the spots in the section (n_rows,).
    columns
        Positions of the genes in the layout (n_columns,).
    counts, expected, null
        Measured counts, expected counts, and those of the null model (n_rows, n_columns).
    depths
        Counts that a spot is expected to have in all genes, from those that it shows (n_rows, 1).
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    counts: NDArray[np.float32]
    expected: NDArray[np.float32]
    null: NDArray[np.float32]
    depths: NDArray[np.float32]


def predict(
    layout: Layout, models: Sequence[Stack | Alone], parts: NDArray[np.int64], block_rows: int
) -> Iterator[tuple[slice, list[Predicted]]]:
    """Yield blocks of spots, and their predictions under the mask of each model; `parts` are those of the spots."""
    wanted = np.unique(np.concatenate([model.mask.columns for model in models] or [np.arange(0)]))
    places = [np.searchsorted(wanted, model.mask.columns) for model in models]
    read, neighbors = layout.counts[:, wanted], layout.section.neighbors
    needs_around = any(isinstance(model, Stack) and model.needs_around for model in models)
    for block, _ in iter_blocks(read, block_rows):
        rows = np.arange(len(parts))[block]
        counts = read[block].toarray()
        around = (neighbors[block] @ read).toarray() if needs_around else None
        predicted = []
        for model, columns in zip(models, places, strict=True):
            own = np.flatnonzero(np.isin(parts[rows], model.mask.parts))
            if not len(own):
                continue
            x = counts[np.ix_(own, columns)]
            spots, unread, shown = Spots(rows[own], x), x, model.mask.shown
            if around is not None and isinstance(model, Stack):
                sizes = neighbors[rows[own]] @ model.visible.sizes
                spots = Spots(rows[own], x, around[np.ix_(own, columns)], sizes[:, None])
                if not model.spots.reads_neighbors:
                    unread = x + around[np.ix_(own, columns)]
            null = layout.null(rows[own], unread, model.mask.columns, shown)
            expected = model.expected(spots, null)
            predicted.append(
                Predicted(rows[own], model.mask.columns, x, expected, null, layout.full_depths(rows[own], shown))
            )
        yield block, predicted
