"""What people have, read from real small folders: Space Ranger whole and in parts, HD, stores, tables, HEST-1k."""

from __future__ import annotations

import shutil

import anndata as ad
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
import squidpy as sq
from scipy import sparse

import sagefm
from sagefm.errors import ArgumentError, SagefmError
from sagefm.io._find import find_kind, section_name
from tests.space_ranger import LIBRARY, SCALE, write_bins, write_folder


@pytest.fixture(scope="module")
def tissue():
    """A window of the bundled Visium section, in whole pixels, and the spots around it."""
    whole = sagefm.datasets.dlpfc()
    near = whole.obs["array_row"].between(20, 40) & whole.obs["array_col"].between(30, 70)
    return whole[near].copy(), whole[~near].copy()


def assert_same_section(adata, expected):
    assert list(adata.obs_names) == list(expected.obs_names)
    assert list(adata.var_names) == list(expected.var_names)
    np.testing.assert_array_equal(adata.obsm["spatial"], expected.obsm["spatial"])
    assert abs(sparse.csr_matrix(adata.X) - sparse.csr_matrix(expected.X)).max() == 0


# Space Ranger


@pytest.mark.parametrize("version", [1, 2])
def test_a_whole_folder_is_read_as_squidpy_reads_it(version, tissue, tmp_path):
    folder = write_folder(tmp_path / "RA1" / "outs", *tissue, version=version)
    adata, expected = sagefm.io.read(folder), sq.read.visium(folder)
    assert_same_section(adata, expected)
    assert_same_section(adata, tissue[0])
    pd.testing.assert_frame_equal(adata.obs, expected.obs, check_dtype=False)
    pd.testing.assert_frame_equal(adata.var, expected.var)
    assert adata.X.dtype == expected.X.dtype
    own, theirs = adata.uns["spatial"]["RA1"], expected.uns["spatial"][LIBRARY]
    assert own["scalefactors"] == theirs["scalefactors"] == SCALE
    for resolution in ("hires", "lowres"):
        np.testing.assert_array_equal(own["images"][resolution], theirs["images"][resolution])


@pytest.mark.parametrize("where", ["", "outs"])
@pytest.mark.parametrize(
    "form",
    [
        {"counts": "mtx"},
        {"images": False},
        {"prefix": "V1_Human_Brain_"},
        {"counts": "mtx", "version": 1, "images": False},
    ],
    ids=str,
)
def test_parts_and_downloads(form, where, tissue, tmp_path):
    """The folder of the sample will do as well as the one of the results."""
    write_folder(tmp_path / "brain" / where, *tissue, **form)
    adata = sagefm.io.read(tmp_path / "brain")
    assert_same_section(adata, tissue[0])
    library = adata.uns["spatial"]["brain"]
    assert library["scalefactors"] == SCALE
    assert set(library["images"]) == ({"hires", "lowres"} if form.get("images", True) else set())


def test_spots_beside_the_tissue_are_left_out(tissue, tmp_path):
    """As of the raw matrix, where a folder has no other."""
    folder = write_folder(tmp_path / "outs", *tissue)
    everything = write_folder(tmp_path / "all", ad.concat(tissue, merge="same"), tissue[1][:0])
    shutil.move(everything / "filtered_feature_bc_matrix.h5", folder / "raw_feature_bc_matrix.h5")
    (folder / "filtered_feature_bc_matrix.h5").unlink()
    adata = sagefm.io.read(folder)
    assert_same_section(adata, tissue[0])
    assert sagefm.pp.check(adata, verbose=False).ok


def test_genes_of_one_symbol_are_told_apart(tissue, tmp_path):
    section, outside = tissue[0].copy(), tissue[1].copy()
    section.var_names = outside.var_names = [*section.var_names[:-1], section.var_names[0]]
    adata = sagefm.io.read(write_folder(tmp_path / "outs", section, outside))
    assert adata.var_names.is_unique
    assert adata.var_names[-1] == f"{section.var_names[0]}-1"


def test_the_image_is_where_the_plots_look(tissue, tmp_path):
    adata = sagefm.io.read(write_folder(tmp_path / "outs", *tissue))
    sq.pl.spatial_scatter(adata, color="array_row", img=True)


def test_bins_of_visium_hd_are_summed(tissue, tmp_path):
    folder = write_bins(tmp_path / "colon" / "outs", tissue[0])
    write_bins(tmp_path / "colon" / "outs", tissue[0], um=8, side=20)
    adata = sagefm.io.read(tmp_path / "colon")
    assert adata.shape == (100, tissue[0].n_vars)
    assert set(adata.obs["n_bins"]) == {36}
    np.testing.assert_array_equal(np.ravel(adata.X.sum(axis=0)), np.ravel(tissue[0].X.sum(axis=0)))
    pitch = 96 * 3.65 * np.hypot(1, 0.02)
    steps = np.linalg.norm(np.diff(adata.obsm["spatial"].reshape(10, 10, 2), axis=0), axis=2)
    np.testing.assert_allclose(steps, pitch)
    assert adata.uns["spatial"]["colon"]["scalefactors"]["spot_diameter_fullres"] == pytest.approx(96 * 3.65)
    checked = sagefm.pp.check(adata, verbose=False)
    assert "bins" not in set(checked.to_frame()["what"])
    assert "spots are 96 um apart" in checked.read["technology"]
    one = sagefm.io.read(folder / "binned_outputs" / "square_008um")
    assert one.shape == (4, tissue[0].n_vars)
    assert section_name(folder / "binned_outputs" / "square_008um") == section_name(tmp_path / "colon") == "colon"


# Stores and tables


def test_stores(synovium, tmp_path):
    table = synovium[:, :50].copy()
    table.write_h5ad(tmp_path / "a.h5ad")
    table.write_zarr(tmp_path / "b.zarr")
    sd.SpatialData(tables={"table": table}).write(tmp_path / "c.zarr")
    mudata.MuData({"rna": table}).write(tmp_path / "d.h5mu")
    assert_same_section(sagefm.io.read(tmp_path / "a.h5ad"), table)
    assert_same_section(sagefm.io.read(str(tmp_path / "b.zarr")), table)
    assert_same_section(sagefm.io.read(tmp_path / "c.zarr")["table"], table)
    assert_same_section(sagefm.io.read(tmp_path / "d.h5mu")["rna"], table)
    assert [find_kind(path) for path in sorted(tmp_path.iterdir())] == ["h5ad", "zarr", "zarr", "h5mu"]


@pytest.mark.parametrize("name", ["RA1.tsv", "RA1.txt.gz", "RA1.csv"])
@pytest.mark.parametrize("spots_are", ["rows", "columns"])
def test_tables_of_spatial_transcriptomics(name, spots_are, synovium, tmp_path):
    synovium.obs_names = [f"{x}x{y}" for x, y in synovium.obs[["array_col", "array_row"]].to_numpy()]
    frame = synovium.to_df()
    frame = frame if spots_are == "rows" else frame.T
    frame.to_csv(tmp_path / name, sep="," if name.endswith(".csv") else "\t")
    adata = sagefm.io.read(tmp_path / name)
    order = np.argsort(adata.obs_names), np.argsort(synovium.obs_names)
    assert (adata.X[order[0]] != synovium.X[order[1]]).nnz == 0
    np.testing.assert_array_equal(np.ptp(adata.obsm["spatial"], axis=0), np.ptp(synovium.obsm["spatial"], axis=0))
    assert sagefm.pp.check(adata, verbose=False).ok
    assert section_name(tmp_path / name) == "RA1"


# HEST-1k


@pytest.fixture
def hest(section, tmp_path):
    """A folder of three sections, as it is downloaded."""
    (tmp_path / "hest" / "st").mkdir(parents=True)
    for name in ("TENX1", "NCBI2", "MISC3"):
        section.write_h5ad(tmp_path / "hest" / "st" / f"{name}.h5ad")
    pd.DataFrame(
        {
            "id": ["TENX1", "NCBI2", "MISC3", "ABSENT"],
            "species": ["Homo sapiens", "Homo sapiens", "Mus musculus", "Homo sapiens"],
            "organ": ["Breast", "Brain", "Brain", "Breast"],
            "st_technology": ["Visium", "Spatial Transcriptomics", "Visium", "Xenium"],
        }
    ).to_csv(tmp_path / "hest" / "HEST_v1_1_0.csv", index=False)
    return tmp_path / "hest"


def test_hest_is_a_corpus(hest):
    corpus = sagefm.datasets.hest(hest)
    assert corpus.names == ["NCBI2", "TENX1"]
    assert corpus.read(0).shape == (400, 300)
    assert sagefm.datasets.hest(hest, organ="Breast").names == ["TENX1"]
    assert sagefm.datasets.hest(hest, species=None).names == ["MISC3", "NCBI2", "TENX1"]
    assert sagefm.datasets.hest(hest, species="Mus musculus", organ=["Brain", "Lung"]).names == ["MISC3"]
    with pytest.raises(SagefmError, match=r"organ='Kidney'.*\['Brain', 'Breast'\]"):
        sagefm.datasets.hest(hest, organ="Kidney")
    (hest / "HEST_v1_1_0.csv").unlink()
    assert len(sagefm.datasets.hest(hest)) == 3
    with pytest.raises(SagefmError, match="metadata"):
        sagefm.datasets.hest(hest, organ="Brain")
    with pytest.raises(SagefmError, match="st/"):
        sagefm.datasets.hest(hest / "st")


# What is refused


def test_messages_say_what_was_found_and_what_to_pass(tissue, hest, synovium, tmp_path):
    outs = write_folder(tmp_path / "brain" / "outs", *tissue)
    synovium.to_df().iloc[:3, :4].to_csv(tmp_path / "counts.csv")
    (tmp_path / "empty").mkdir()
    for path, words in {
        tmp_path / "absent": "does not exist",
        tmp_path / "empty": "holds nothing",
        tmp_path / "counts.csv": "is no section that sagefm reads.*10x13",
        outs / "filtered_feature_bc_matrix.h5": r"without positions. Pass the folder.*outs",
        outs / "spatial": r"only a part.*Pass the folder that it is in, '.*outs'",
        hest: r"3 sections of HEST-1k.*sagefm.datasets.hest\(",
        hest / "st": r"holds 3 sections.*sagefm.io.read\('.*MISC3.h5ad'\)",
    }.items():
        with pytest.raises(SagefmError, match=words):
            sagefm.io.read(path)
    for path in (3, None, ["a.h5ad"]):
        with pytest.raises(SagefmError, match="path="):
            sagefm.io.read(path)


def test_damaged_folders(tissue, tmp_path):
    def broken(name):
        return write_folder(tmp_path / name, *tissue)

    folder = broken("no_positions")
    (folder / "spatial" / "tissue_positions.csv").unlink()
    with pytest.raises(SagefmError, match=r"no positions.*scalefactors_json.json.*tissue_positions.csv"):
        sagefm.io.read(folder)
    folder = broken("cut")
    file = folder / "filtered_feature_bc_matrix.h5"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(SagefmError, match="cannot be read as counts of 10x"):
        sagefm.io.read(folder)
    folder = broken("swapped")
    positions = folder / "spatial" / "tissue_positions.csv"
    positions.write_text(positions.read_text().replace("-1,", "-2,"))
    with pytest.raises(SagefmError, match=r"spots of .* have no position, first .*-1'.*e.g. .*-2'"):
        sagefm.io.read(folder)
    folder = broken("columns")
    positions = folder / "spatial" / "tissue_positions.csv"
    positions.write_text(positions.read_text().replace("array_row", "row"))
    with pytest.raises(SagefmError, match=r"lacks the columns \['array_row'\]"):
        sagefm.io.read(folder)
    (tmp_path / "text.tsv").write_text("\tA\tB\n1x1\t1\tx\n1x2\t2\ty\n")
    with pytest.raises(SagefmError, match=r"text where counts are expected, in \['B'\]"):
        sagefm.io.read(tmp_path / "text.tsv")


DAMAGED = {
    "tissue_hires_image.png": (lambda text: text[:200], "tissue_hires_image.png cannot be read"),
    "scalefactors_json.json": (lambda text: text[:-5], "scalefactors_json.json cannot be read"),
    "tissue_positions.csv": (lambda text: text + text[text.index(b"\n") + 1 :], "twice"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_parts_of_space_ranger_are_named(name, tissue, tmp_path):
    write_folder(tmp_path / "outs", *tissue)
    change, words = DAMAGED[name]
    path = tmp_path / "outs" / "spatial" / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ArgumentError, match=words):
        sagefm.io.read(tmp_path)


def test_a_file_whose_counts_do_not_fit_is_refused(section, tmp_path):
    section.write_h5ad(tmp_path / "section.h5ad")
    with h5py.File(tmp_path / "section.h5ad", "r+") as file:
        file["X/indices"][...] = file["X/indices"][()] - 10**6
    with pytest.raises(ArgumentError, match=r"section.h5ad cannot be used.*damaged"):
        sagefm.io.read(tmp_path / "section.h5ad")
