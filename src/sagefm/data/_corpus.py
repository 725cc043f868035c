"""Sections in files: hundreds of h5ad or zarr stores as one corpus, with a table of what is known of each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from sagefm.errors import ArgumentError, MissingKeyError

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

import hashlib
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from sagefm._constants import SPATIAL_KEY
from sagefm.data._blocks import n_rows, open_store, to_memory
from sagefm.data._counts import get_counts
from sagefm.data._genes import get_gene_names, named_genes, to_symbols
from sagefm.data._table import get_table
from sagefm.errors import GenesError, SagefmError

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from anndata import AnnData

_SUFFIXES = (".h5ad", ".zarr")


class Corpus:
    """Sections in files, one a file, read when they are needed.

    Each keeps its own genes: what a section did not measure is not a zero. Nothing is read before it is asked for.

    Parameters
    ----------
    paths
        Files (``.h5ad``) or stores (``.zarr``) of AnnData. A section is named by its file, without the suffix.
    metadata
        What is known of the sections (donor, organ, ...), a row a section, by name.
    layer
        Layer with raw counts; ``X`` if left out.
    gene_key
        Column of ``var`` with gene symbols or Ensembl ids; ``var_names`` if left out.
    spatial_key
        Coordinates in ``obsm`` (n_spots, 2).
    hashes
        sha256 of each section that a file must have when it is first read, by name.

    Raises
    ------
    sagefm.errors.SagefmError
        No file, a file that does not exist or of another kind, a name twice, a section that is not in `metadata`.

    Examples
    --------
    >>> import pandas as pd
    >>> import sagefm
    >>> for seed in (0, 1):
    ...     sagefm.datasets.simulate(100, n_genes=50, rng=seed).write_h5ad(f"s{seed}.h5ad")
    >>> facts = pd.DataFrame({"organ": ["Brain", "Liver"]}, index=["s0", "s1"])
    >>> corpus = sagefm.datasets.Corpus.from_folder(".", facts)
    >>> corpus.names
    ['s0', 's1']
    >>> corpus.subset(corpus.metadata["organ"] == "Brain").read(0).shape
    (100, 50)

    Which genes a model of them could have, measured in half of the sections or detected in both:

    >>> len(corpus.vocabulary(0.5)), int(corpus.gene_counts().max()), len(corpus.expressed_genes(by="organ")) <= 50
    (50, 2, True)

    A manifest holds shapes and hashes; sections that are not those any more are refused:

    >>> corpus.manifest()["sha256"].iloc[0] == corpus.sha256(0), corpus.shape(0)
    (True, (100, 50))
    >>> corpus.manifest().to_csv("manifest.csv")
    >>> again = sagefm.datasets.Corpus.from_manifest("manifest.csv")
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        metadata: pd.DataFrame | None = None,
        *,
        layer: str | None = None,
        gene_key: str | None = None,
        spatial_key: str = SPATIAL_KEY,
        hashes: dict[str, str] | None = None,
    ) -> None:
        self.paths = [Path(path) for path in paths]
        self.names = [path.stem for path in self.paths]
        self.layer, self.gene_key, self.spatial_key = layer, gene_key, spatial_key
        #: sha256 of the sections that were read or given, by name.
        self.hashes = dict(hashes or {})
        if not self.paths:
            raise ArgumentError("Found no section; expected at least one .h5ad or .zarr.")
        absent = [str(path) for path in self.paths if not path.exists() or path.suffix not in _SUFFIXES]
        if absent:
            raise ArgumentError(f"{absent[:3]} do not exist, or are neither .h5ad nor .zarr.")
        twice = [name for name, n in Counter(self.names).items() if n > 1]
        if twice:
            raise ArgumentError(f"Several files are named {twice[:3]}; expected a name for each section.")
        #: What is known of each section, a row a section in the order of `names`.
        self.metadata: pd.DataFrame = align_metadata(metadata, self.names)
        self._shapes: dict[str, tuple[int, int]] = {}
        self._verified: set[str] = set()

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike[str],
        metadata: str | os.PathLike[str] | pd.DataFrame | None = None,
        *,
        key: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Return all sections of a folder, or of its folder ``st``, as HEST-1k is laid out.

        Parameters
        ----------
        folder
            Folder of ``.h5ad`` and ``.zarr``.
        metadata
            Table, or file of one (CSV, or tab-separated ``.tsv``). If left out, the one ``HEST*.csv`` or
            ``metadata.*`` of the folder, if there is one; rows without a file are left out.
        key
            Column that names the section; ``"id"`` if there is one, or the first.
        **kwargs
            As in :class:`Corpus`.

        Returns
        -------
        The corpus.

        Raises
        ------
        sagefm.errors.SagefmError
            As :class:`Corpus`; several tables, or no column `key`.
        """
        root = Path(folder)
        stores = root / "st" if (root / "st").is_dir() else root
        paths = sorted(path for path in stores.glob("*") if path.suffix in _SUFFIXES)
        return cls(paths, find_metadata(root, metadata, key), **kwargs)

    @classmethod
    def from_manifest(cls, manifest: str | os.PathLike[str] | pd.DataFrame, **kwargs: Any) -> Self:
        """Return the sections of a manifest; of a file that changed, reading it is an error.

        Parameters
        ----------
        manifest
            What :meth:`manifest` returned, or a CSV of it.
        **kwargs
            As in :class:`Corpus`.

        Returns
        -------
        The corpus.

        Raises
        ------
        sagefm.errors.SagefmError
            As :class:`Corpus`; a manifest without paths or hashes.
        """
        if not isinstance(manifest, pd.DataFrame):
            manifest = pd.read_csv(manifest, index_col=0, dtype={0: str, "sha256": str})
        missing = [name for name in ("path", "sha256") if name not in manifest or manifest[name].isna().any()]
        if missing:
            raise MissingKeyError(f"The manifest lacks {missing}, or values of it; expected what manifest() returns.")
        hashes = manifest["sha256"].set_axis(manifest.index.astype(str)).to_dict()
        return cls(manifest["path"].tolist(), manifest.drop(columns=["path", "sha256"]), hashes=hashes, **kwargs)

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, keep: Sequence[bool] | pd.Series) -> Corpus:
        """Return some of the sections.

        Parameters
        ----------
        keep
            True or False for each section.

        Returns
        -------
        The corpus of those that are kept.

        Raises
        ------
        ArgumentError
            Other values or another length; no section is left.
        """
        mask = np.asarray(keep)
        if mask.dtype != bool or mask.shape != (len(self),):
            raise ArgumentError(
                f"Found {mask.dtype} of shape {mask.shape}; expected True or False for each of {len(self)} sections."
            )
        kept = np.flatnonzero(mask).tolist()
        part = Corpus(
            [self.paths[i] for i in kept],
            self.metadata.iloc[kept],
            layer=self.layer,
            gene_key=self.gene_key,
            spatial_key=self.spatial_key,
            hashes=self.hashes,
        )
        part._verified = self._verified & set(part.names)
        return part

    def shape(self, i: int) -> tuple[int, int]:
        """Return the shape of a section, from the head of its file.

        Parameters
        ----------
        i
            Position of the section.

        Returns
        -------
        Numbers of spots and genes.

        Raises
        ------
        SagefmError
            The file cannot be read.
        """
        name = self.names[i]
        if name not in self._shapes:
            with open_store(self.paths[i]) as file:
                n_spots, n_genes = n_rows(file["obs"]), n_rows(file["var"])
            self._shapes[name] = n_spots, n_genes
        return self._shapes[name]

    def sha256(self, i: int) -> str:
        """Return the hash of a section, computed once.

        Parameters
        ----------
        i
            Position of the section.

        Returns
        -------
        sha256, in hexadecimal.

        Raises
        ------
        SagefmError
            It is another than it should be.
        """
        path, name = self.paths[i], self.names[i]
        if name not in self._verified:
            found = file_sha256(path)
            if self.hashes.setdefault(name, found) != found:
                raise SagefmError(f"{path} has changed: its sha256 is {found}, expected {self.hashes[name]}.")
            self._verified.add(name)
        return self.hashes[name]

    def read(self, i: int) -> AnnData:
        """Return a section in memory; the first time, its hash is compared with the known one, or taken down.

        Parameters
        ----------
        i
            Position of the section.

        Returns
        -------
        The section as it is in its file (n_spots, n_genes).

        Raises
        ------
        SagefmError
            The file cannot be read, or has another hash than it should.
        """
        import anndata

        path = self.paths[i]
        self.sha256(i)
        try:
            table = anndata.read_zarr(path) if path.suffix == ".zarr" else anndata.read_h5ad(path)
        except Exception as error:
            raise SagefmError(f"{path} cannot be read: {error}") from error
        return get_table(table)

    def gene_counts(self) -> pd.Series:
        """Return in how many sections each gene was measured.

        Returns
        -------
        Numbers of sections by symbol, the largest first.
        """
        from anndata.io import read_elem

        counts: Counter[str] = Counter()
        for i in range(len(self)):
            with open_store(self.paths[i]) as file:
                var = read_elem(file["var"])
            try:
                names = to_symbols(get_gene_names(SimpleNamespace(var=var, var_names=var.index), self.gene_key))
            except SagefmError as error:
                raise type(error)(f"{self.paths[i]}: {error}") from error
            counts.update(list(dict.fromkeys(str(name) for name in names)))
        return pd.Series(dict(counts.most_common()), dtype=int)

    def vocabulary(self, min_share: float = 0.5) -> list[str]:
        """Return the genes that many of the sections measured.

        Parameters
        ----------
        min_share
            Least share of the sections, above 0 and at most 1.

        Returns
        -------
        Symbols, those of most sections first.

        Raises
        ------
        ArgumentError
            A share outside its range.
        GenesError
            No gene is in as many sections.
        """
        if not 0 < min_share <= 1:
            raise ArgumentError(f"min_share={min_share!r}; expected a share above 0 and at most 1.")
        counts = self.gene_counts()
        genes = [str(gene) for gene in counts.index[counts >= min_share * len(self)]]
        if not genes:
            raise GenesError(
                f"No gene is in {min_share:.0%} of the sections. Expected the same kind of gene names in each: pass "
                f"gene_key=..., the column of var with symbols or Ensembl ids."
            )
        return genes

    def expressed_genes(self, *, by: str | None = None, min_detected: float = 0.05, min_groups: int = 2) -> list[str]:
        """Return named, coding genes that are detected in several donors; reads all sections once.

        Parameters
        ----------
        by
            Column of the metadata, e.g. the donor; sections count one by one if left out.
        min_detected
            Share of the spots of a section in which a gene is detected.
        min_groups
            Donors, or sections, with such a section.

        Returns
        -------
        Symbols, sorted.

        Raises
        ------
        sagefm.errors.SagefmError
            A section that cannot be read, values that are not raw counts.
        MissingKeyError
            The metadata have no column `by`.
        """
        if by is not None and by not in self.metadata:
            raise MissingKeyError(f"by={by!r} is not a column of the metadata; found {list(self.metadata.columns)}.")
        groups: dict[str, set[str]] = {}
        for i, name in enumerate(self.names):
            table = self.read(i)
            symbols = to_symbols(get_gene_names(table, self.gene_key))
            counts = to_memory(get_counts(table, self.layer))
            detected = np.bincount(counts.indices[counts.data > 0], minlength=counts.shape[1]) / max(len(table), 1)
            group = name if by is None else str(self.metadata[by].iloc[i])
            for symbol in symbols[detected >= min_detected]:
                groups.setdefault(str(symbol), set()).add(group)
        return named_genes(sorted(gene for gene, seen in groups.items() if len(seen) >= min_groups))

    def manifest(self) -> pd.DataFrame:
        """Return what identifies each section, with its metadata; reads all files once.

        Returns
        -------
        A row a section: ``path``, ``sha256``, ``n_spots``, ``n_genes``, and the columns of ``metadata``.
        """
        rows = []
        for i, path in enumerate(self.paths):
            n_spots, n_genes = self.shape(i)
            rows.append({"path": str(path.resolve()), "sha256": self.sha256(i), "n_spots": n_spots, "n_genes": n_genes})
        facts = pd.DataFrame(rows, index=pd.Index(self.names, name="section"))
        return facts.join(self.metadata.drop(columns=facts.columns, errors="ignore"))


def file_sha256(path: Path) -> str:
    """Return the hash of a file, or of a folder's files and their names."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for part in sorted(part for part in path.rglob("*") if part.is_file()):
        digest.update(f"{part.relative_to(path).as_posix()}\0{file_sha256(part)}\n".encode())
    return digest.hexdigest()


def find_metadata(
    root: Path, metadata: str | os.PathLike[str] | pd.DataFrame | None = None, key: str | None = None
) -> pd.DataFrame | None:
    """Return the table of a folder's sections, by name; see :meth:`sagefm.training._sections.Corpus.from_folder`.

    Raises
    ------
    ArgumentError
        Several tables, and none was named.
    MissingKeyError
        The table has no column `key`.
    """
    if metadata is None:
        found = sorted({*root.glob("HEST*.csv"), *root.glob("metadata.csv"), *root.glob("metadata.tsv")})
        if len(found) > 1:
            raise ArgumentError(f"Found several tables, {[path.name for path in found]}: pass metadata=...")
        metadata = found[0] if found else None
    if metadata is None:
        return None
    if isinstance(metadata, pd.DataFrame):
        facts = metadata
    else:
        facts = pd.read_csv(metadata, sep="\t" if Path(metadata).suffix == ".tsv" else ",")
        key = key or ("id" if "id" in facts else str(facts.columns[0]))
    if key is None:
        return facts
    if key not in facts:
        raise MissingKeyError(f"key={key!r} is not a column of the metadata; found {list(facts.columns)}.")
    return facts.set_index(facts[key].astype(str))


def align_metadata(metadata: pd.DataFrame | None, names: Sequence[str]) -> pd.DataFrame:
    """Return the rows of the sections `names`, in their order; a table without columns where nothing is known.

    Raises
    ------
    MissingKeyError
        A section has no row.
    ArgumentError
        A section has several.
    """
    metadata = pd.DataFrame(index=names) if metadata is None else metadata
    metadata = metadata.set_axis(metadata.index.astype(str))
    unknown = [name for name in names if name not in metadata.index]
    if unknown:
        raise MissingKeyError(
            f"{len(unknown)} sections are not in the index of the metadata, e.g. {unknown[:3]}; "
            f"it holds {list(metadata.index[:3])}. Expected a row for each file, by its name without suffix."
        )
    doubled = metadata.index[metadata.index.duplicated() & metadata.index.isin(names)]
    if len(doubled):
        raise ArgumentError(f"The metadata have several rows for {list(doubled[:3])}; expected one for each section.")
    return metadata.loc[names]
