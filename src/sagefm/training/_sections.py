"""Many sections, in memory or on disk: what training asks of them, and how some are held out."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from sagefm.data._input import make_input
from sagefm.data._reader import read_table
from sagefm.data._table import TableKeys, get_libraries
from sagefm.errors import ArgumentError, SagefmError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from sagefm.data._corpus import Corpus
    from sagefm.data._genes import Vocabulary
    from sagefm.data._input import SectionInput
    from sagefm.data._section import Section
    from sagefm.module._config import NetworkConfig

    #: Spots of each section.
    Spots = list[NDArray[np.int64]]


class Sections(ABC):
    """Sections by name, with numbers of spots `sizes`; read when asked for, they stay in memory with `keep`."""

    def __init__(self, names: Sequence[str], sizes: Sequence[int], *, keep: bool) -> None:
        self.names, self.sizes, self.keep = list(names), np.array(sizes), keep
        self._kept: dict[int, SectionInput] = {}

    def __getitem__(self, i: int) -> SectionInput:
        if i in self._kept:
            return self._kept[i]
        inputs = self._read(i)
        if self.keep:
            self._kept |= inputs
        return inputs[i]

    @abstractmethod
    def _read(self, i: int) -> dict[int, SectionInput]:
        """Return what a network reads of a section, in memory, and of others that are read with it."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hash by which other data are told from these."""


class TableSections(Sections):
    """The sections of a table; stored counts are read whenever their section is asked for."""

    def __init__(self, sections: Sequence[Section], config: NetworkConfig) -> None:
        self.sections, self.config = sections, config
        names, sizes = [section.name for section in sections], [section.n_spots for section in sections]
        super().__init__(names, sizes, keep=not any(section.is_stored for section in sections))

    def _read(self, i: int) -> dict[int, SectionInput]:
        return {i: make_input(self.sections[i].to_memory(), self.config.input, scale=self.config.scale)}

    def fingerprint(self) -> str:
        """Return a hash of names, genes, graphs and counts of each gene."""
        digest = hashlib.sha256()
        for section in self.sections:
            digest.update(section.name.encode())
            for part in (section.genes, section.neighbors.indptr, section.neighbors.indices, section.gene_totals):
                digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()


class CorpusSections(Sections):
    """The sections of a corpus: one a file; with a `library_key` one a library, named after file and library."""

    def __init__(self, corpus: Corpus, vocabulary: Vocabulary, config: NetworkConfig, *, keep: bool) -> None:
        self.corpus, self.vocabulary, self.config = corpus, vocabulary, config
        names, sizes = [], []
        #: File of each section.
        self.files: list[int] = []
        for i, file in enumerate(corpus.names):
            libraries, n_spots = [file], [corpus.shape(i)[0]]
            if corpus.library_key is not None:
                with _naming(corpus.paths[i]):
                    codes, libraries = get_libraries(corpus.read(i), corpus.library_key)
                libraries, n_spots = [f"{file}/{library}" for library in libraries], np.bincount(codes).tolist()
            names += libraries
            sizes += n_spots
            self.files += [i] * len(libraries)
        super().__init__(names, sizes, keep=keep)

    def _read(self, i: int) -> dict[int, SectionInput]:
        corpus, file = self.corpus, self.files[i]
        with _naming(corpus.paths[file]):
            keys = TableKeys(corpus.layer, corpus.gene_key, corpus.spatial_key, corpus.library_key)
            inputs = list(read_table(corpus.read(file), self.vocabulary, keys).inputs(self.config))
            if len(inputs) != self.files.count(file):
                raise ArgumentError(
                    f"Found {len(inputs)} sections; pass library_key to the corpus: the column of obs that names them."
                )
        return dict(enumerate(inputs, start=self.files.index(file)))

    def fingerprint(self) -> str:
        """Return a hash of the files and of the names of their sections."""
        hashes = [self.corpus.sha256(i) for i in range(len(self.corpus))]
        return hashlib.sha256("\n".join(self.names + hashes).encode()).hexdigest()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Begin the message of an error with the file that it is about."""
    try:
        yield
    except SagefmError as error:
        raise type(error)(f"{path}: {error}") from error


def split_spots(
    sections: Sections, validation_size: float, rng: np.random.Generator, groups: Sequence[str] | None = None
) -> tuple[Spots, Spots]:
    """Split spots into training and validation, one array of spots a section.

    Of several sections, whole sections are held out, those of one of the `groups` (e.g. donors) together. Of one
    section, square tiles up to eight spots wide are: neighbors share counts, so a random choice of spots would be
    validated on what it was trained on.
    """
    whole = [np.arange(size) for size in sections.sizes]
    if validation_size == 0:
        return whole, [spots[:0] for spots in whole]
    if len(whole) == 1:
        return _split_tiles(sections[0].section.coordinates, validation_size, rng)
    # Without groups, by number: names of sections need not be distinct.
    names, group = np.unique(range(len(whole)) if groups is None else groups, return_inverse=True)
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
    train = [spots[:0] if is_out else spots for is_out, spots in zip(is_held, whole, strict=True)]
    return train, [spots if is_out else spots[:0] for is_out, spots in zip(is_held, whole, strict=True)]


def _split_tiles(
    coordinates: NDArray[np.float64], validation_size: float, rng: np.random.Generator
) -> tuple[Spots, Spots]:
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
