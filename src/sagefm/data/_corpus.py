"""Sections in files: hundreds of h5ad or zarr stores as one corpus, with a table of what is known of each."""

from __future__ import annotations

from collections import Counter
from copy import copy
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from sagefm._arguments import as_path, check_type, listed
from sagefm._constants import SPATIAL_KEY
from sagefm._progress import ProgressBar
from sagefm.data._corpus_genes import count_genes, find_expressed
from sagefm.data._files import (
    STORES,
    align_metadata,
    file_sha256,
    find_metadata,
    read_file,
    read_shape,
    sections_folder,
)
from sagefm.data._table import find_coordinates, get_table
from sagefm.errors import ArgumentError, GenesError, MissingKeyError, SagefmError

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from anndata import AnnData


class Corpus:
    """Sections in files, one per file, that are read when they are needed.

    Each section keeps its own genes: a gene that was not measured is not a zero.

    Parameters
    ----------
    paths
        Files (``.h5ad``) or stores (``.zarr``) of AnnData or SpatialData. A section is named after its file, without
        the suffix; where files have the same name, after folder and file.
    metadata
        Donor, organ, ... of each section: one row per section, with its name in the index.
    layer
        Layer with raw counts. Default: ``X``.
    gene_key
        Column of ``var`` with gene symbols or Ensembl ids. Default: ``var_names``.
    spatial_key
        Coordinates in ``obsm`` (n_spots, 2).
    library_key
        Column of ``obs`` that names the section of each spot, where files hold several.
    table_key
        Table of SpatialData stores, where they hold several.
    hashes
        Expected sha256 of sections, by name. It is checked when a section is first read.

    Raises
    ------
    sagefm.errors.SagefmError
        There is no file, a file does not exist or is of another kind, two files have the same name, or a section is
        missing from `metadata`.

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

    Genes for a model: those that half of the sections measured, or those that were detected in both organs:

    >>> len(corpus.vocabulary(0.5)), int(corpus.gene_counts().max()), len(corpus.expressed_genes(by="organ")) <= 50
    (50, 2, True)

    A manifest holds shapes and hashes. Sections that have changed since are refused:

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
        library_key: str | None = None,
        table_key: str | None = None,
        hashes: dict[str, str] | None = None,
    ) -> None:
        check_type({} if hashes is None else hashes, dict, name="hashes", expected="hashes by name")
        files = listed(paths, argument="paths", what="at least one section, .h5ad or .zarr")
        self.paths = [as_path(path, name="paths") for path in files]
        self.names = [path.stem for path in self.paths]
        if len(set(self.names)) < len(self.names):
            self.names = [f"{path.parent.name}/{path.stem}" for path in self.paths]
        self.layer, self.gene_key, self.spatial_key = layer, gene_key, spatial_key
        self.library_key, self.table_key = library_key, table_key
        #: sha256 of the sections that were read or given, by name.
        self.hashes = dict(hashes or {})
        if absent := [str(path) for path in self.paths if not path.exists() or path.suffix not in STORES]:
            raise ArgumentError(f"{absent[:3]} do not exist, or are neither .h5ad nor .zarr.")
        if twice := [name for name, n in Counter(self.names).items() if n > 1]:
            raise ArgumentError(f"Several files are named {twice[:3]}; expected a name for each section.")
        #: One row per section, in the order of `names`.
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
        """Return all sections of a folder, or of its folder ``st``, as in HEST-1k.

        Parameters
        ----------
        folder
            Folder of ``.h5ad`` and ``.zarr``.
        metadata
            Table, or its file (``.csv``, or tab-separated ``.tsv``). Rows without a section are ignored. Default: the
            file ``HEST*.csv`` or ``metadata.*`` in the folder, if there is one.
        key
            Column that names the section. Default: the index of a table; the column ``"id"`` of a file, or its first.
        **kwargs
            Other arguments of :class:`Corpus`.

        Returns
        -------
        The corpus.

        Raises
        ------
        sagefm.errors.SagefmError
            The corpus cannot be made, there are several files of metadata, or no column `key`.
        """
        root = as_path(folder, name="folder")
        stores = sorted(path for path in sections_folder(root).glob("*") if path.suffix in STORES)
        return cls(stores, find_metadata(root, metadata, key), **kwargs)

    @classmethod
    def from_manifest(cls, manifest: str | os.PathLike[str] | pd.DataFrame, **kwargs: Any) -> Self:
        """Return the sections of a manifest. Reading a file that has changed raises an error.

        Parameters
        ----------
        manifest
            Result of :meth:`manifest`, or its CSV file.
        **kwargs
            Other arguments of :class:`Corpus`.

        Returns
        -------
        The corpus.

        Raises
        ------
        sagefm.errors.SagefmError
            The corpus cannot be made, or the manifest lacks paths or hashes.
        """
        if not isinstance(manifest, pd.DataFrame):
            manifest = pd.read_csv(manifest, index_col=0, dtype={0: str, "sha256": str})
        if missing := [name for name in ("path", "sha256") if name not in manifest or manifest[name].isna().any()]:
            raise MissingKeyError(f"The manifest lacks {missing}, or values of it; expected what manifest() returns.")
        hashes = manifest["sha256"].set_axis(manifest.index.astype(str)).to_dict()
        return cls(manifest["path"].tolist(), manifest.drop(columns=["path", "sha256"]), hashes=hashes, **kwargs)

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, keep: Sequence[bool] | pd.Series) -> Corpus:
        """Return a corpus of some of the sections.

        Parameters
        ----------
        keep
            True or False for each section.

        Returns
        -------
        The corpus.

        Raises
        ------
        sagefm.errors.SagefmError
            `keep` has other values or another length, or keeps no section.
        """
        mask = np.asarray(keep)
        if mask.dtype != bool or mask.shape != (len(self),):
            raise ArgumentError(
                f"Found {mask.dtype} of shape {mask.shape}; expected True or False for each of {len(self)} sections."
            )
        if not mask.any():
            raise ArgumentError("No section is kept; expected True for at least one.")
        kept = np.flatnonzero(mask).tolist()
        part = copy(self)
        part.paths, part.names = [self.paths[i] for i in kept], [self.names[i] for i in kept]
        part.metadata, part.hashes, part._verified = self.metadata.iloc[kept], dict(self.hashes), set(self._verified)
        return part

    def shape(self, i: int) -> tuple[int, int]:
        """Return the shape of a section without reading its counts.

        Parameters
        ----------
        i
            Position of the section.

        Returns
        -------
        Numbers of spots and genes.

        Raises
        ------
        sagefm.errors.SagefmError
            The file cannot be read.
        """
        name = self.names[i]
        if name not in self._shapes:
            self._shapes[name] = read_shape(self.paths[i], self.table_key)
        return self._shapes[name]

    def sha256(self, i: int) -> str:
        """Return the hash of a section. It is computed once.

        Parameters
        ----------
        i
            Position of the section.

        Returns
        -------
        sha256, in hexadecimal.

        Raises
        ------
        sagefm.errors.SagefmError
            The hash is not the expected one.
        """
        path, name = self.paths[i], self.names[i]
        if name not in self._verified:
            sha256 = file_sha256(path)
            if self.hashes.setdefault(name, sha256) != sha256:
                raise SagefmError(f"{path} has changed: its sha256 is {sha256}, expected {self.hashes[name]}.")
            self._verified.add(name)
        return self.hashes[name]

    def read(self, i: int) -> AnnData:
        """Return a section in memory. The first time, its hash is checked against the expected one, or stored.

        Parameters
        ----------
        i
            Position of the section.

        Returns
        -------
        The section as it is in its file (n_spots, n_genes); of SpatialData, with its coordinates.

        Raises
        ------
        sagefm.errors.SagefmError
            The file cannot be read, or its hash is not the expected one.
        """
        self.sha256(i)
        data = read_file(self.paths[i])
        table = get_table(data, table_key=self.table_key)
        if table is not data:
            table.obsm[self.spatial_key] = find_coordinates(data, table, self.spatial_key)
        return table

    def gene_counts(self, *, progress: bool = True) -> pd.Series:
        """Return in how many sections each gene was measured.

        Parameters
        ----------
        progress
            As in :func:`sagefm.tl.embed`.

        Returns
        -------
        Number of sections by symbol, the largest first.

        Raises
        ------
        sagefm.errors.SagefmError
            A file cannot be read.
        """
        return count_genes(self, progress=progress)

    def vocabulary(self, min_share: float = 0.5, *, progress: bool = True) -> list[str]:
        """Return the genes that a given share of the sections measured.

        Parameters
        ----------
        min_share
            Least share of the sections, above 0 and at most 1.
        progress
            As in :func:`sagefm.tl.embed`.

        Returns
        -------
        Symbols, the most frequent first.

        Raises
        ------
        sagefm.errors.SagefmError
            The share is outside its range, or no gene reaches it.
        """
        if not 0 < min_share <= 1:
            raise ArgumentError(f"min_share={min_share!r}; expected a share above 0 and at most 1.")
        counts = self.gene_counts(progress=progress)
        genes = [str(gene) for gene in counts.index[counts >= min_share * len(self)]]
        if not genes:
            raise GenesError(
                f"No gene is in {min_share:.0%} of the sections. Expected the same kind of gene names in each: pass "
                f"gene_key=..., the column of var with symbols or Ensembl ids."
            )
        return genes

    def expressed_genes(
        self, *, by: str | None = None, min_detected: float = 0.05, min_groups: int = 2, progress: bool = True
    ) -> list[str]:
        """Return named coding genes that are detected in several donors. All sections are read once.

        Parameters
        ----------
        by
            Column of the metadata that groups sections, e.g. by donor. Default: each section is a group.
        min_detected
            Least share of a section's spots in which a gene is detected.
        min_groups
            Least number of groups that have such a section.
        progress
            As in :func:`sagefm.tl.embed`.

        Returns
        -------
        Symbols, sorted.

        Raises
        ------
        sagefm.errors.SagefmError
            A section cannot be read or holds no raw counts, or the metadata have no column `by`.
        """
        if by is not None and by not in self.metadata:
            raise MissingKeyError(f"by={by!r} is not a column of the metadata; found {list(self.metadata.columns)}.")
        return find_expressed(self, by, min_detected, min_groups, progress=progress)

    def manifest(self, *, progress: bool = True) -> pd.DataFrame:
        """Return path, hash and shape of each section, with its metadata. All files are read once.

        Parameters
        ----------
        progress
            As in :func:`sagefm.tl.embed`.

        Returns
        -------
        One row per section: ``path``, ``sha256``, ``n_spots``, ``n_genes``, and the columns of ``metadata``.

        Raises
        ------
        sagefm.errors.SagefmError
            A file cannot be read, or its hash is not the expected one.
        """
        rows = []
        with ProgressBar("reading files", len(self), "section", progress=progress) as bar:
            for i, path in enumerate(self.paths):
                rows.append((str(path.resolve()), self.sha256(i), *self.shape(i)))
                bar.update()
        columns = ["path", "sha256", "n_spots", "n_genes"]
        facts = pd.DataFrame(rows, pd.Index(self.names, name="section"), columns)
        return facts.join(self.metadata.drop(columns=columns, errors="ignore"))
