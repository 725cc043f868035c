"""A section as Space Ranger writes it: counts in HDF5, positions, scale factors and images."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from PIL import Image
from scipy import sparse

#: Antibodies of a CytAssist panel, which a gene expression reader leaves out.
PROTEINS = ("CD3E.1", "CD68.1", "PTPRC.1")
LIBRARY = "V1_Human_Brain"
SCALE = {
    "spot_diameter_fullres": 144.4,
    "tissue_hires_scalef": 0.004,
    "fiducial_diameter_fullres": 233.3,
    "tissue_lowres_scalef": 0.002,
}


def write_folder(folder: Path, adata: ad.AnnData, outside: ad.AnnData, *, version: int = 2, prefix: str = "") -> Path:
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
    """
    (folder / "spatial").mkdir(parents=True)
    rng = np.random.default_rng(0)
    proteins = sparse.csr_matrix(rng.poisson(5, (adata.n_obs, len(PROTEINS))))
    counts = sparse.hstack([sparse.csr_matrix(adata.X), proteins], format="csr").astype(np.int32)
    features = {
        "id": [*adata.var["gene_ids"], *PROTEINS],
        "name": [*adata.var_names, *PROTEINS],
        "feature_type": ["Gene Expression"] * adata.n_vars + ["Antibody Capture"] * len(PROTEINS),
        "genome": ["GRCh38"] * adata.n_vars + [""] * len(PROTEINS),
    }
    with h5py.File(folder / f"{prefix}filtered_feature_bc_matrix.h5", "w") as file:
        file.attrs["library_ids"] = np.array([LIBRARY.encode()])
        file.attrs["chemistry_description"] = "Visium V4 Slide - FFPE v2"
        file.attrs["software_version"] = f"spaceranger-{version}.0.0"
        matrix = file.create_group("matrix")
        # One column a spot: the rows of our CSR.
        matrix["data"], matrix["indices"], matrix["indptr"] = counts.data, counts.indices, counts.indptr
        matrix["shape"] = np.array(counts.shape[::-1], dtype=np.int32)
        matrix["barcodes"] = adata.obs_names.to_numpy().astype("S")
        for name, values in features.items():
            matrix[f"features/{name}"] = np.array(values, dtype="S")
    both = ad.concat([adata, outside])
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
    size = positions[["pxl_col_in_fullres", "pxl_row_in_fullres"]].max() + 500
    for resolution in ("hires", "lowres"):
        width, height = np.ceil(size * SCALE[f"tissue_{resolution}_scalef"]).astype(int)
        pixels = rng.integers(180, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "spatial" / f"tissue_{resolution}_image.png")
    return folder
