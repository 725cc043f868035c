"""Sections as Space Ranger writes them: counts in HDF5 or mtx, positions, scale factors and images; bins of HD."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Literal

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from PIL import Image
from scipy import sparse
from scipy.io import mmwrite

#: Antibodies of a CytAssist panel, which a gene expression reader leaves out.
PROTEINS = ("CD3E.1", "CD68.1", "PTPRC.1")
LIBRARY = "V1_Human_Brain"
SCALE = {
    "spot_diameter_fullres": 144.4,
    "tissue_hires_scalef": 0.004,
    "fiducial_diameter_fullres": 233.3,
    "tissue_lowres_scalef": 0.002,
}


def write_folder(
    folder: Path,
    adata: ad.AnnData,
    outside: ad.AnnData,
    *,
    version: int = 2,
    prefix: str = "",
    counts: Literal["h5", "mtx"] = "h5",
    images: bool = True,
) -> Path:
    """Write the files that readers of Visium look for.

    Parameters
    ----------
    folder
        Folder to make.
    adata
        Spots on the tissue, with ``var["gene_ids"]``, places on the array and whole pixels.
    outside
        Spots beside it: in the list of positions, not among the counts.
    version
        Of Space Ranger: before 2, positions have another file name and no header.
    prefix
        In front of the name of the file of counts, as in downloads from 10x.
    counts
        As HDF5, or as a folder with ``matrix.mtx.gz``.
    images
        Write the images of the tissue.
    """
    (folder / "spatial").mkdir(parents=True)
    matrix = folder / f"{prefix}filtered_feature_bc_matrix"
    (_write_h5 if counts == "h5" else _write_mtx)(matrix, adata, version)
    both = ad.concat([adata[:, :0], outside[:, :0]])
    positions = pd.DataFrame(
        {
            "in_tissue": np.repeat([1, 0], [adata.n_obs, outside.n_obs]),
            "array_row": both.obs["array_row"],
            "array_col": both.obs["array_col"],
            "pxl_row_in_fullres": both.obsm["spatial"][:, 1].astype(int),
            "pxl_col_in_fullres": both.obsm["spatial"][:, 0].astype(int),
        },
        index=both.obs_names.rename("barcode"),
    ).sort_values(["array_row", "array_col"])
    name = "tissue_positions.csv" if version >= 2 else "tissue_positions_list.csv"
    positions.to_csv(folder / "spatial" / name, header=version >= 2)
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(SCALE))
    if images:
        _write_images(folder / "spatial", adata)
    return folder


def write_bins(folder: Path, adata: ad.AnnData, *, um: int = 16, side: int = 60, pixels_per_um: float = 3.65) -> Path:
    """Write results of Visium HD: the counts of `adata`, gene by gene, scattered over a square of bins `um` wide."""
    place = folder / "binned_outputs" / f"square_{um:03}um"
    (place / "spatial").mkdir(parents=True)
    rng = np.random.default_rng(0)
    totals = np.asarray(adata.X.sum(axis=0)).ravel().astype(int)
    genes = np.repeat(np.arange(adata.n_vars), totals)
    bins = rng.integers(0, side**2, len(genes))
    counts = sparse.csr_matrix((np.ones(len(genes), np.int32), (bins, genes)), (side**2, adata.n_vars))
    rows, columns = np.divmod(np.arange(side**2), side)
    names = [f"s_{um:03}um_{row:05}_{column:05}-1" for row, column in zip(rows, columns, strict=True)]
    table = ad.AnnData(counts, obs=pd.DataFrame(index=names), var=adata.var)
    _write_h5(place / "filtered_feature_bc_matrix", table, 3)
    width = um * pixels_per_um
    # The slide lies a little turned under the microscope.
    x, y = (np.array([[1, -0.02], [0.02, 1]]) @ (np.array([columns, rows]) + 0.5)) * width + 800
    pd.DataFrame(
        {
            "barcode": names, "in_tissue": 1, "array_row": rows, "array_col": columns,
            "pxl_row_in_fullres": y, "pxl_col_in_fullres": x,
        }
    ).to_parquet(place / "spatial" / "tissue_positions.parquet", index=False)  # fmt: skip
    scale = {**SCALE, "spot_diameter_fullres": width, "bin_size_um": float(um), "microns_per_pixel": 1 / pixels_per_um}
    (place / "spatial" / "scalefactors_json.json").write_text(json.dumps(scale))
    return folder


def _features(adata: ad.AnnData) -> dict[str, list[str]]:
    return {
        "id": [*adata.var["gene_ids"], *PROTEINS],
        "name": [*adata.var_names, *PROTEINS],
        "feature_type": ["Gene Expression"] * adata.n_vars + ["Antibody Capture"] * len(PROTEINS),
        "genome": ["GRCh38"] * adata.n_vars + [""] * len(PROTEINS),
    }


def _counts(adata: ad.AnnData) -> sparse.csr_matrix:
    """Return counts of genes and of antibodies (n_spots, n_features)."""
    proteins = sparse.csr_matrix(np.random.default_rng(0).poisson(5, (adata.n_obs, len(PROTEINS))))
    return sparse.hstack([sparse.csr_matrix(adata.X), proteins], format="csr").astype(np.int32)


def _write_mtx(matrix: Path, adata: ad.AnnData, _version: int) -> None:
    matrix.mkdir()
    with gzip.open(matrix / "matrix.mtx.gz", "wb") as file:
        mmwrite(file, _counts(adata).T.tocoo())
    features = pd.DataFrame(_features(adata))[["id", "name", "feature_type"]]
    features.to_csv(matrix / "features.tsv.gz", sep="\t", header=False, index=False)
    adata.obs_names.to_series().to_csv(matrix / "barcodes.tsv.gz", header=False, index=False)


def _write_h5(matrix: Path, adata: ad.AnnData, version: int) -> None:
    counts, features = _counts(adata), _features(adata)
    with h5py.File(matrix.with_name(f"{matrix.name}.h5"), "w") as file:
        file.attrs["library_ids"] = np.array([LIBRARY.encode()])
        file.attrs["chemistry_description"] = "Visium V4 Slide - FFPE v2"
        file.attrs["software_version"] = f"spaceranger-{version}.0.0"
        group = file.create_group("matrix")
        # One column a spot: the rows of our CSR.
        group["data"], group["indices"], group["indptr"] = counts.data, counts.indices, counts.indptr
        group["shape"] = np.array(counts.shape[::-1], dtype=np.int32)
        group["barcodes"] = adata.obs_names.to_numpy().astype("S")
        for name, values in features.items():
            group[f"features/{name}"] = np.array(values, dtype="S")


def _write_images(folder: Path, adata: ad.AnnData) -> None:
    """Write images of the tissue, darker where there are more counts, on a bright slide."""
    rng = np.random.default_rng(0)
    places = adata.obsm["spatial"]
    totals = np.asarray(adata.X.sum(axis=1)).ravel()
    shade = np.clip(totals / np.quantile(totals, 0.95), 0, 1)[:, None] * [30, 110, 60]
    for resolution in ("hires", "lowres"):
        scale = SCALE[f"tissue_{resolution}_scalef"]
        width, height = np.ceil((places.max(axis=0) + 500) * scale).astype(int)
        pixels = rng.integers(235, 250, (height, width, 3))
        x, y = (places * scale).astype(int).T
        reach = max(int(0.6 * SCALE["spot_diameter_fullres"] * scale), 1)
        for dx in range(-reach, reach + 1):
            for dy in range(-reach, reach + 1):
                pixels[np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)] = (
                    np.array([235, 215, 230]) - shade
                )
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"tissue_{resolution}_image.png")
