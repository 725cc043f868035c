"""Couplings of the genes that a table measured, whatever a model's vocabulary."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from sagefm._arguments import listed
from sagefm._progress import ProgressBar
from sagefm.data._blocks import to_memory
from sagefm.data._genes import Vocabulary, get_gene_names, is_gene, match_genes, to_symbols
from sagefm.data._reader import read_table
from sagefm.data._table import TableKeys, get_column, untouched_on_error
from sagefm.errors import ArgumentError, GenesError, MissingKeyError
from sagefm.inference._couplings_table import MIN_SEEN, DonorSection, GeneSet, Network, couple, find_genes, seen_genes
from sagefm.inference._impute_table import impute_table
from sagefm.inference._pairs import read_consensus, subunits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from sagefm.checkpoint._checkpoint import Checkpoint
    from sagefm.data._corpus import Corpus
    from sagefm.data._reader import TableReader
    from sagefm.data._section import Section

#: The largest number of sources, and of targets, whose fields are kept.
MAX_FIELDS: Final = 200
#: Columns of LIANA's resource that hold the genes of these names.
_RESOURCE: Final = {"ligands": "source", "receptors": "target"}


def own_vocabulary(table: Any, gene_key: str | None = None) -> Vocabulary:
    """Return the genes of a table as a vocabulary, sorted: results do not depend on the order of genes."""
    names = get_gene_names(table, gene_key)[is_gene(table)]
    return Vocabulary(tuple(sorted(set(map(str, to_symbols(names))))))


def couple_table(
    reader: TableReader,
    vocabulary: Vocabulary,
    sources: Sequence[str] | str | None,
    targets: Sequence[str] | str | None,
    *,
    checkpoint: Checkpoint | None = None,
    donor_key: str | None = None,
    n_components: int = 20,
    neighborhood: bool = True,
    rotate: bool = False,
    keep_fields: bool = False,
    device: torch.device,
    progress: bool = False,
) -> Network:
    """Return the couplings of a table that was read with its own vocabulary; see :func:`sagefm.tl.regulatory_network`."""
    donors = _donors(reader, donor_key)
    # A name that is wrong is found before the work.
    source_set = None if sources is None else _named(sources, vocabulary, "sources")
    target_set = None if targets is None else _named(targets, vocabulary, "targets")
    if keep_fields:
        _check_few(source_set, target_set)
    with untouched_on_error(reader.table):
        sections = reader.sections()
        # Counts in a file are read for this: not where all genes are named.
        all_named = _is_named(sources) and _is_named(targets)
        seen = GeneSet([], []) if all_named else seen_genes(sections, vocabulary)
        expected = None
        if checkpoint is not None:
            expected = _expected(reader, sections, vocabulary, checkpoint, device, progress=progress)
        order = np.argsort(donors, kind="stable")
        tested = _tested(sources, source_set, seen), _tested(targets, target_set, seen)
        with _pairs_done(len(sections), *tested, progress=progress) as bar:
            return couple(
                (
                    DonorSection(sections[i], donors[i], None if expected is None else expected[sections[i].rows])
                    for i in order.tolist()
                ),
                vocabulary,
                *tested,
                keep_all=sources is not None and targets is not None,
                several=len(sections) > 1,
                n_components=n_components,
                neighborhood=neighborhood,
                rotate=rotate,
                keep_fields=keep_fields,
                device=device,
                done=bar.update,
            )


def couple_corpus(
    corpus: Corpus,
    sources: Sequence[str] | str,
    targets: Sequence[str] | str,
    *,
    donor_key: str | None = None,
    n_components: int = 20,
    neighborhood: bool = True,
    rotate: bool = False,
    device: torch.device,
    progress: bool = False,
) -> Network:
    """Return the couplings of named genes in the sections of a corpus, each read once, and combined by donor."""
    vocabulary = Vocabulary(tuple(sorted(map(str, corpus.gene_counts(progress=progress).index))))
    donors = list(corpus.names)
    if donor_key is not None:
        if donor_key not in corpus.metadata:
            raise MissingKeyError(
                f"donor_key={donor_key!r} is not a column of the corpus' metadata; found {list(corpus.metadata.columns)}."
            )
        donors = corpus.metadata[donor_key].astype(str).tolist()
    keys = TableKeys(corpus.layer, corpus.gene_key, corpus.spatial_key, corpus.library_key)

    def sections() -> Iterator[DonorSection]:
        for i in np.argsort(donors, kind="stable").tolist():
            reader = read_table(corpus.read(i), vocabulary, keys)
            for section in reader.sections():
                name = "/".join(filter(None, [corpus.names[i], section.name]))
                yield DonorSection(replace(section, name=name), donors[i])

    tested = _named(sources, vocabulary, "sources"), _named(targets, vocabulary, "targets")
    with _pairs_done(len(corpus), *tested, progress=progress) as bar:
        return couple(
            sections(),
            vocabulary,
            *tested,
            several=True,
            n_components=n_components,
            neighborhood=neighborhood,
            rotate=rotate,
            device=device,
            done=bar.update,
        )


def _pairs_done(n_sections: int, sources: GeneSet, targets: GeneSet, *, progress: bool) -> ProgressBar:
    """Return a bar that counts the pairs of all sections."""
    n_pairs = n_sections * len(sources.names) * len(targets.names)
    return ProgressBar("couplings", n_pairs, "pair", unit_scale=True, progress=progress)


def couple_pairs(reader: TableReader, pairs: pd.DataFrame, *, device: torch.device) -> pd.DataFrame:
    """Return the couplings of pairs [source, target], in their order: effect, se, z, pval, qval.

    The table may have been read with a model's vocabulary. Pairs with a gene that the table did not measure are NaN;
    several sections are combined.
    """
    vocabulary = own_vocabulary(reader.table, reader.keys.gene_key)
    reader = replace(reader, match=match_genes(reader.table, vocabulary, reader.keys.gene_key))
    columns = ["effect", "se", "z", "pval", "qval"]
    measured = np.array(
        [
            _is_measured(source, vocabulary) and _is_measured(target, vocabulary)
            for source, target in pairs[["source", "target"]].to_numpy()
        ]
    )
    if not measured.any():
        return pairs[["source", "target"]].assign(**dict.fromkeys(columns, np.nan))
    sources, targets = (
        find_genes(pairs.loc[measured, column].tolist(), vocabulary, argument=column) for column in ("source", "target")
    )
    rows, places = (
        pd.Index(genes.names).get_indexer(pairs.loc[measured, column])
        for genes, column in ((sources, "source"), (targets, "target"))
    )
    wanted = sparse.csr_matrix((np.ones(len(rows)), (rows, places)), shape=(len(sources.names), len(targets.names)))
    sections = reader.sections()
    network = couple(
        (DonorSection(section, section.name) for section in sections),
        vocabulary,
        sources,
        targets,
        wanted=wanted,
        several=len(sections) > 1,
        device=device,
    )
    edges = network.edges
    if len(sections) > 1:
        edges = edges[edges["library"] == "combined"]
    return pairs[["source", "target"]].merge(edges[["source", "target", *columns]], on=["source", "target"], how="left")


def _is_named(genes: Sequence[str] | str | None) -> bool:
    """Tell whether genes are listed, and not those of a resource or of the whole table."""
    return genes is not None and not (isinstance(genes, str) and genes in _RESOURCE)


def _named(genes: Sequence[str] | str, vocabulary: Vocabulary, argument: str) -> GeneSet:
    if isinstance(genes, str) and genes in _RESOURCE:
        pairs = read_consensus(f"{argument}={genes!r}")
        names = sorted(name for name in pairs[_RESOURCE[genes]].unique() if _is_measured(name, vocabulary))
        if not names:
            raise GenesError(f"{argument}: this table measured none of the genes of LIANA's consensus resource.")
        return find_genes(names, vocabulary, argument=argument)
    return find_genes(to_symbols(pd.Index(listed(genes, argument=argument))).tolist(), vocabulary, argument=argument)


def _is_measured(name: str, vocabulary: Vocabulary) -> bool:
    return all(gene in vocabulary.position for gene in subunits(name, vocabulary))


def _tested(asked: Sequence[str] | str | None, genes: GeneSet | None, seen: GeneSet) -> GeneSet:
    """Return the genes that are tested: those that are named, or of a resource or the whole table those that were seen."""
    if genes is None:
        if len(seen.names) < 2:
            raise GenesError(
                f"Found {len(seen.names)} genes in at least {MIN_SEEN:.0%} of the spots; expected two or more. "
                f"Name the genes to test: sources=[...], targets=[...]"
            )
        return seen
    if _is_named(asked):
        return genes
    known = set(np.concatenate([*seen.members, np.empty(0, int)]).tolist())
    kept = [i for i, members in enumerate(genes.members) if known.issuperset(members.tolist())]
    if not kept:
        raise GenesError(
            f"None of the {len(genes.names)} {asked} was seen in at least {MIN_SEEN:.0%} of the spots. "
            f"Name the genes to test: sources=[...], targets=[...]"
        )
    return GeneSet([genes.names[i] for i in kept], [genes.members[i] for i in kept])


def _check_few(sources: GeneSet | None, targets: GeneSet | None) -> None:
    """Raise unless sources and targets are named, and few enough for a field of each at every spot."""
    if any(genes is None or len(genes.names) > MAX_FIELDS for genes in (sources, targets)):
        sizes = ["all" if genes is None else len(genes.names) for genes in (sources, targets)]
        raise ArgumentError(
            f"fields=True writes a value of each gene at every spot; found {sizes[0]} sources and {sizes[1]} targets, "
            f"expected at most {MAX_FIELDS} named ones of each: sources=[...], targets=[...]"
        )


def _donors(reader: TableReader, donor_key: str | None) -> list[str]:
    """Return the donor of each library. Default: each library is a donor."""
    names = reader.spots.names
    if donor_key is None:
        return list(names)
    column = get_column(reader.table, donor_key, argument="donor_key").astype(str).to_numpy()
    donors = [np.unique(column[reader.spots.libraries == code]) for code in range(len(names))]
    mixed = [name for name, values in zip(names, donors, strict=True) if len(values) > 1]
    if mixed:
        raise ArgumentError(
            f"donor_key={donor_key!r} names several donors in {mixed[:3]}; expected one for each library. "
            f"Pass library_key=... if the table holds several sections."
        )
    return [str(values[0]) for values in donors]


def _expected(
    reader: TableReader,
    sections: Sequence[Section],
    vocabulary: Vocabulary,
    checkpoint: Checkpoint,
    device: torch.device,
    *,
    progress: bool,
) -> NDArray[np.float32]:
    """Return counts that a model expects, each gene predicted while hidden (n_spots, n_vocabulary).

    Genes that the model does not know: depth times the gene's share in the table.
    """
    match = match_genes(reader.table, checkpoint.vocabulary, reader.keys.gene_key)
    layer = np.asarray(impute_table(replace(reader, match=match), checkpoint, device=device, progress=progress).layer)
    expected = np.empty((reader.table.n_obs, len(vocabulary)), dtype=np.float32)
    expected[:, reader.match.genes] = layer[:, reader.match.columns]
    for section in sections:
        unknown = np.isnan(expected[section.rows[0]])
        totals, depth = section.gene_totals, np.asarray(to_memory(section.counts).sum(axis=1)).ravel()
        share = np.zeros(len(vocabulary), dtype=np.float32)
        share[section.genes] = totals / totals.sum()
        expected[np.ix_(section.rows, np.flatnonzero(unknown))] = np.outer(depth, share[unknown])
    return expected
