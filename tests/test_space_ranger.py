"""Sections as Space Ranger writes them, through every reader of the ecosystem, and embedded by the bundled model."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import spatialdata as sd
import squidpy as sq

import sagefm
from tests import OTHER_KERNELS
from tests.space_ranger import LIBRARY, SCALE, write_folder


@pytest.fixture(scope="module")
def tissue():
    """A window of the bundled Visium section, in whole pixels, and the spots around it."""
    whole = sagefm.datasets.dlpfc()
    near = whole.obs["array_row"].between(20, 40) & whole.obs["array_col"].between(30, 70)
    return whole[near].copy(), whole[~near].copy()


@pytest.fixture(scope="module")
def expected(tissue):
    return sagefm.tl.embed(tissue[0], copy=True).obsm["X_sagefm"]


def read_scanpy(folder):
    with pytest.warns(FutureWarning, match="squidpy.read.visium"):
        return sc.read_visium(folder)


def read_spatialdata(folder):
    visium = pytest.importorskip("spatialdata_io", reason="pip install 'sagefm[interop]'").visium
    return visium(folder, dataset_id=LIBRARY)


READERS = {"scanpy": read_scanpy, "squidpy": sq.read.visium, "spatialdata-io": read_spatialdata}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_gives_the_same_numbers(reader, version, tissue, expected, tmp_path):
    data = READERS[reader](write_folder(tmp_path / "outs", *tissue, version=version))
    table = sagefm.data._table.get_table(data)
    assert list(table.obs_names) == list(tissue[0].obs_names)
    assert list(table.var_names) == list(tissue[0].var_names)
    np.testing.assert_array_equal(table.obsm["spatial"], tissue[0].obsm["spatial"])
    before = table.X.copy()
    sagefm.tl.embed(data)
    np.testing.assert_array_equal(table.obsm["X_sagefm"], expected)
    assert (before != table.X).nnz == 0
    sagefm.tl.embed(data, gene_key="gene_ids", key_added="by_id")
    np.testing.assert_array_equal(table.obsm["by_id"], expected)


def test_shapes_of_spatialdata_io_give_the_coordinates(tissue, expected, tmp_path):
    """Its coordinate systems bear the name of the section; none is called "global"."""
    sdata = read_spatialdata(write_folder(tmp_path / "outs", *tissue))
    assert "global" not in sdata.coordinate_systems
    del sdata["table"].obsm["spatial"]
    sagefm.tl.embed(sdata)
    np.testing.assert_array_equal(sdata["table"].obsm["spatial"], tissue[0].obsm["spatial"])
    np.testing.assert_array_equal(sdata["table"].obsm["X_sagefm"], expected)
    hires = f"{LIBRARY}_downscaled_hires"
    with pytest.warns(UserWarning, match="built with spatial_key='spatial'"):
        sagefm.tl.embed(sdata, spatial_key=hires, key_added="hires")
    scaled = tissue[0].obsm["spatial"] * SCALE["tissue_hires_scalef"]
    np.testing.assert_allclose(sdata["table"].obsm[hires], scaled)
    np.testing.assert_array_equal(sdata["table"].obsm["hires"], expected)
    sdata.write(tmp_path / "section.zarr")
    again = sd.read_zarr(tmp_path / "section.zarr")
    np.testing.assert_array_equal(again["table"].obsm["X_sagefm"], expected)
    assert set(again.images) == {f"{LIBRARY}_hires_image", f"{LIBRARY}_lowres_image"}


def test_sections_of_several_folders(tissue, expected, tmp_path):
    """Joined by spatialdata, each section is a region, and a library without being named."""
    sections = {}
    for name in ("first", "second"):
        folder = write_folder(tmp_path / name, *tissue, prefix=f"{name}_")
        visium = pytest.importorskip("spatialdata_io", reason="pip install 'sagefm[interop]'").visium
        sections[name] = visium(folder, dataset_id=name)
    joined = sd.concatenate(sections, concatenate_tables=True)
    (table,) = joined.tables.values()
    for spatial in (True, False):
        if not spatial:
            del table.obsm["spatial"]
        sagefm.tl.embed(joined)
        np.testing.assert_allclose(table.obsm["X_sagefm"], np.vstack([expected, expected]), **OTHER_KERNELS)
        assert table.uns["sagefm"]["X_sagefm"]["library_key"] == "region"


def test_positions_are_joined_by_barcode(tissue, expected, tmp_path):
    """Files in an order of their own."""
    order = np.random.default_rng(0).permutation(tissue[0].n_obs)
    adata = sq.read.visium(write_folder(tmp_path / "outs", tissue[0][order].copy(), tissue[1]))
    sagefm.tl.embed(adata)
    found = pd.DataFrame(adata.obsm["X_sagefm"], adata.obs_names).loc[tissue[0].obs_names]
    np.testing.assert_allclose(found, expected, **OTHER_KERNELS)


def test_genes_of_one_name(tissue, expected, tmp_path, rejects):
    """Space Ranger's genes are told apart by id: the message says so, and its repair works."""
    adata = sq.read.visium(write_folder(tmp_path / "outs", *tissue))
    adata.var_names = [*adata.var_names[:-1], adata.var_names[0]]
    rejects(sagefm.errors.GenesError, adata, lambda: sagefm.tl.embed(adata), "var_names_make_unique()")
    sagefm.tl.embed(adata, gene_key="gene_ids")
    np.testing.assert_array_equal(adata.obsm["X_sagefm"], expected)
    adata.var_names_make_unique()
    assert isinstance(sagefm.tl.embed(adata, copy=True), ad.AnnData)
