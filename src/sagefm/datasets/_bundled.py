"""Real sections that ship with the package. Licenses and provenance: ``files/README.md``."""

from __future__ import annotations

from importlib.resources import as_file, files

import numpy as np
from anndata import AnnData, read_h5ad


def dlpfc() -> AnnData:
    """Return a 10x Visium section of human dorsolateral prefrontal cortex, 3,529 spots x 5,000 genes.

    The sample, Br8325_ant, is healthy and has no labels.

    Returns
    -------
    AnnData
        A new object at each call:

        - ``X``: raw counts, CSR float32 (3529, 5000); median 948 per spot.
        - ``obs["array_row"]``, ``obs["array_col"]``: position on the Visium array; ``obs["sample"]``.
        - ``var_names``: gene symbols; ``var["gene_ids"]``: Ensembl ids.
        - ``obsm["spatial"]``: full-resolution pixels, float64 (3529, 2); neighbors are 277 pixels (100 um) apart.
          Array rows run along the first coordinate.
        - ``uns["source"]``: repository, commit, path, licence and citation.

    Notes
    -----
    The section has a known tissue artifact (a "hangnail"): it is good for trying quality control, but no clean
    reference.

    Of its 5,000 genes, 4,143 are in the published vocabulary. The others of the vocabulary are *missing*, not zero, and
    the sum of a spot is not its library size.

    SpotSweeper's documentation calls the sample Br2743_ant. Its object says Br8325_ant, as does this one.

    License: MIT, Copyright (c) 2024 SpotSweeper authors (text in ``sagefm/datasets/files/LICENSES``).

    References
    ----------
    Huuki-Myers et al., "A data-driven single-cell and spatial transcriptomic map of the human prefrontal cortex",
    Science 384, eadh1938 (2024), doi:10.1126/science.adh1938.

    Totty et al., SpotSweeper, https://github.com/MicTott/SpotSweeper, ``data/DLPFC_artifact.rda``.

    Examples
    --------
    >>> import sagefm
    >>> sagefm.datasets.dlpfc().shape
    (3529, 5000)
    """
    return _read("dlpfc")


def synovium() -> AnnData:
    """Return a labelled Spatial Transcriptomics section of human synovium, 302 spots x 15,005 genes.

    Rheumatoid arthritis, patient RA1, section 2. The 100 um spots are on a square array, not on a hexagonal one.

    Returns
    -------
    AnnData
        A new object at each call:

        - ``X``: raw counts, CSR float32 (302, 15005); median 2,130 per spot.
        - ``obs["label"]``: histological region of each spot, categorical with 5 classes.
        - ``obs["infiltrate"]``: name of the leukocyte infiltrate, or "none".
        - ``obs["array_row"]``, ``obs["array_col"]``: position on the array.
        - ``var_names``: gene symbols.
        - ``obsm["spatial"]``: nominal micrometers (array position x 200), float64 (302, 2).
        - ``uns["source"]``: repository, commit, path, licence and citation.

    Notes
    -----
    A label can name several regions, joined by a semicolon ("Infiltrate;Synovial stroma").

    The counts were recovered, as exact integers, from the authors' normalized values, log2(count / size factor + 1).
    The authors had filtered the spots. The genes are those of all sections of the patient: 1,659 are zero in this one.

    License: BSD-3-Clause, Copyright (c) 2019, 3dst (text in ``sagefm/datasets/files/LICENSES``).

    References
    ----------
    Vickovic et al., "Three-dimensional spatial transcriptomics uncovers cell type localizations in the human
    rheumatoid arthritis synovium", Communications Biology 5, 129 (2022), doi:10.1038/s42003-022-03050-3;
    https://github.com/klarman-cell-observatory/3dst.

    Examples
    --------
    >>> import sagefm
    >>> sagefm.datasets.synovium().obs["label"].cat.categories.size
    5
    """
    return _read("synovium")


def _read(name: str) -> AnnData:
    with as_file(files("sagefm.datasets") / "files" / f"{name}.h5ad") as path:
        adata = read_h5ad(path)
    adata.X = adata.X.astype(np.float32)  # stored as uint16
    return adata
