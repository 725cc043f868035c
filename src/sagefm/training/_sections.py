"""Many sections, in memory or on disk: what training asks of them, and how some are held out."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from sagefm.data._reader import read_table
from sagefm.data._table import TableKeys
from sagefm.errors import SagefmError
from sagefm.module._config import NetworkConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sagefm.data._corpus import Corpus
    from sagefm.data._genes import Vocabulary
    from sagefm.data._input import SectionInput

from typing import TYPE_CHECKING, Protocol

from sagefm.data._input import make_input
from sagefm.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sagefm.data._input import SectionInput
    from sagefm.data._section import Section


class Sections(Protocol):
    """Sections that can be read one by one."""

    #: Name of each section.
    names: list[str]
    #: Spots of each section (n_sections,).
    sizes: NDArray[np.int64]

    def __getitem__(self, i: int) -> SectionInput:
        """Return what a network reads of a section, in memory."""
        ...

    def fingerprint(self) -> str:
        """Return a hash by which other data are told from these."""
        ...


class TableSections:
    """The sections of one table.

    Parameters
    ----------
    sections
        The sections; stored counts are read whenever their section is asked for.
    kind, scale
        As in :func:`~sagefm.data._input.make_input`.
    """

    def __init__(self, sections: Sequence[Section], kind: str, scale: float) -> None:
        self.sections = sections
        self.names = [section.name for section in sections]
        self.sizes = np.array([section.n_spots for section in sections])
        self._kind, self._scale = kind, scale
        self._kept: dict[int, SectionInput] = {}

    def __getitem__(self, i: int) -> SectionInput:
        if i in self._kept:
            return self._kept[i]
        made = make_input(self.sections[i].to_memory(), self._kind, scale=self._scale)
        if not self.sections[i].is_stored:
            self._kept[i] = made
        return made

    def fingerprint(self) -> str:
        """Return a hash of names, genes, graphs and counts of each gene."""
        digest = hashlib.sha256()
        for section in self.sections:
            digest.update(section.name.encode())
            for part in (section.genes, section.neighbors.indptr, section.neighbors.indices, section.gene_totals):
                digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()


def split_spots(
    sections: Sections,
    validation_size: float,
    rng: np.random.Generator,
    groups: Sequence[str] | None = None,
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Split spots into training and validation, one array of spots a section.

    Of several sections, whole sections are held out. Of one section, square tiles up to eight spots wide
    are: neighbors share counts, so a random choice of spots would be validated on what it was trained on.

    Parameters
    ----------
    sections
        The sections.
    validation_size
        Share of the spots (about) to hold out, in [0, 1).
    rng
        Source of randomness.
    groups
        Donor or organ of each section: those of one group are held out together. Sections are their own groups if
        left out.
    """
    if not 0 <= validation_size < 1:
        raise ArgumentError(f"validation_size={validation_size!r}; expected a share of at least 0 and below 1.")
    everything = [np.arange(size) for size in sections.sizes]
    nothing = [np.arange(0) for _ in sections.sizes]
    if validation_size == 0:
        return everything, nothing
    if len(sections.sizes) == 1:
        return _split_tiles(sections[0].section.coordinates, validation_size, rng)
    # Names of sections need not be distinct.
    labels = range(len(sections.sizes)) if groups is None else groups
    names, group = np.unique(np.asarray(labels), return_inverse=True)
    if len(names) < 2:
        raise ArgumentError(
            f"All {len(group)} sections are of one group, '{names[0]}': none can be held out. "
            f"Split by another column, or pass validation_size=0."
        )
    sizes = np.bincount(group, weights=sections.sizes)
    order = rng.permutation(len(names))
    held: list[int] = []
    for i in order.tolist():
        if sizes[[*held, i]].sum() <= validation_size * sizes.sum() and len(held) + 1 < len(names):
            held.append(i)
    held = held or [int(order[np.argmin(sizes[order])])]
    is_held = np.isin(group, held)
    train = [none if h else every for h, none, every in zip(is_held, nothing, everything, strict=True)]
    return train, [every if h else none for h, none, every in zip(is_held, nothing, everything, strict=True)]


def _split_tiles(
    coordinates: NDArray[np.float64], validation_size: float, rng: np.random.Generator
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    n_spots = len(coordinates)
    low, high = coordinates.min(axis=0), coordinates.max(axis=0)
    # Small sections have smaller tiles: one must not be more than the share that is held out.
    width = min(8.0, np.sqrt(validation_size * n_spots))
    side = width * np.sqrt(max(np.prod(high - low), np.finfo(float).tiny) / n_spots)
    tiles = np.unique(np.floor((coordinates - low) / side), axis=0, return_inverse=True)[1].ravel()
    order = rng.permutation(int(tiles.max()) + 1)
    covered = np.cumsum(np.bincount(tiles)[order])
    n_tiles = min(int(np.searchsorted(covered, validation_size * n_spots)) + 1, len(order) - 1)
    is_held = np.isin(tiles, order[:n_tiles])
    return [np.flatnonzero(~is_held)], [np.flatnonzero(is_held)]


class CorpusSections:
    """The sections of a corpus as a network reads them.

    Parameters
    ----------
    corpus
        The corpus.
    vocabulary
        Genes of the network.
    config
        The network.
    keep
        Keep what was read in memory.
    """

    def __init__(self, corpus: Corpus, vocabulary: Vocabulary, config: NetworkConfig, *, keep: bool) -> None:
        self.corpus, self.vocabulary, self.config, self.keep = corpus, vocabulary, config, keep
        self.names = corpus.names
        self.sizes = np.array([corpus.shape(i)[0] for i in range(len(corpus))])
        self._kept: dict[int, SectionInput] = {}

    def __getitem__(self, i: int) -> SectionInput:
        if i in self._kept:
            return self._kept[i]
        corpus = self.corpus
        table = corpus.read(i)
        try:
            keys = TableKeys(corpus.layer, corpus.gene_key, corpus.spatial_key)
            (inputs,) = read_table(table, self.vocabulary, keys).inputs(self.config)
        except SagefmError as error:
            raise type(error)(f"{corpus.paths[i]}: {error}") from error
        if self.keep:
            self._kept[i] = inputs
        return inputs

    def fingerprint(self) -> str:
        """Return a hash of the files."""
        hashes = "".join(self.corpus.sha256(i) for i in range(len(self.corpus)))
        return hashlib.sha256(hashes.encode()).hexdigest()
