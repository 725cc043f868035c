"""Rows, sections and places that are not what they seem: refused or told, and the call of the message repairs it."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sagefm
from sagefm.errors import CoordinatesError, MissingKeyError
from sagefm.model import SAGEFM
from tests.repairs import repaired

HEXAGON = [1.0, 3**0.5]

VERBS = {
    "neighbors": lambda adata, model: sagefm.pp.spatial_neighbors(adata),
    "embed": lambda adata, model: sagefm.tl.embed(adata, model),
    "domains": lambda adata, model: sagefm.tl.domains(adata, 2),
    "setup": lambda adata, model: SAGEFM.setup_anndata(adata),
}
each_verb = pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)


def graph_of(adata):
    sagefm.pp.spatial_neighbors(adata)
    return adata.obsp["sagefm_connectivities"]


def mean_distance(coordinates, graph):
    """Return how far neighbors are on average; ties may be broken otherwise."""
    edges = graph.tocoo()
    return np.linalg.norm(coordinates[edges.row] - coordinates[edges.col], axis=1).mean()


def warned(call, *words):
    """Return the one warning of a call, which holds `words`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    (message,) = [str(warning.message) for warning in caught]
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in: {message}"
    return message


# Rows that are no tissue

KINDS = {
    "whole numbers": lambda inside: inside.astype(int),
    "numbers": lambda inside: inside.astype(float),
    "bool": lambda inside: inside,
    "text": lambda inside: np.where(inside, "1", "0"),
    "words of R": lambda inside: np.where(inside, "TRUE", "FALSE"),
    "categories": lambda inside: pd.Categorical(np.where(inside, "True", "False")),
}


@each_verb
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", ["in_tissue", "tissue"])
def test_background_is_refused(key, kind, verb, section, default, rejects):
    inside = np.arange(400) % 10 > 0
    section.obs[key] = KINDS[kind](inside)
    words = (f"40 of 400 rows are no tissue: adata.obs['{key}']",)
    clean = repaired(section, rejects(CoordinatesError, section, lambda: verb(section, default), *words))
    assert clean.obs_names.equals(section.obs_names[inside])
    verb(clean, default)


@pytest.mark.parametrize("values", [np.ones(400), np.zeros(400), ["brain"] * 399 + ["0"], [1.0] * 399 + [np.nan]])
def test_a_column_that_tells_nothing_is_no_background(values, section, default):
    section.obs["tissue"] = values
    sagefm.tl.embed(section, default)


def test_all_spots_of_an_array_with_background():
    rng = np.random.default_rng(0)
    depth = np.where(np.arange(4992) < 3000, 500, 5)
    array = np.stack([np.arange(4992) // 64, 2 * (np.arange(4992) % 64) + np.arange(4992) // 64 % 2], axis=1)
    genes = sagefm.datasets.synovium().var_names[:1500]
    adata = ad.AnnData(
        rng.poisson(depth[:, None] / 1500, (4992, 1500)).astype(np.float32), obsm={"spatial": array[:, ::-1] * HEXAGON}
    )
    adata.var_names = genes
    report = sagefm.pp.check(adata, verbose=False)
    (finding,) = [finding for finding in report.findings if finding.what == "whole array"]
    clean = repaired(adata, str(finding))
    assert 2900 < clean.n_obs <= 3000


# Sections joined without a column


def two_sections(section, suffix=("", "")):
    """Two slides: the same array, moved by half a pixel, as registration does."""
    other = section.copy()
    other.obsm["spatial"] = other.obsm["spatial"] + [0.5, -0.5]
    parts = [part.copy() for part in (section, other)]
    for part, end in zip(parts, suffix, strict=True):
        part.obs_names = part.obs_names + end
        part.obs = part.obs[[]] if suffix != ("", "") else part.obs
    return ad.concat(parts)


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
@each_verb
@pytest.mark.parametrize("evidence", ["names in uns", "names of spots", "array positions", "coordinates"])
def test_joined_sections_are_refused(evidence, verb, section, default, rejects):
    section.obs = section.obs[["array_row", "array_col"]] if evidence == "array positions" else section.obs[[]]
    both = two_sections(section)
    if evidence != "names of spots":
        both.obs_names = [f"spot{i}" for i in range(both.n_obs)]
    if evidence == "names in uns":
        both.uns["spatial"] = {name: {"scalefactors": {}} for name in ("A1", "B1")}
    if evidence == "coordinates":
        both.obsm["spatial"][400:] = both.obsm["spatial"][:400]
    both.obs["library_id"] = np.repeat(["A1", "B1"], 400)
    words = (
        "several sections",
        "library_key='library_id'",
        "2 libraries" if evidence == "names in uns" else "400 of 800",
    )
    message = rejects(CoordinatesError, both, lambda: verb(both, default), *words)
    expected = sagefm.tl.embed(both, default, library_key="library_id", copy=True)
    stored = repaired(both, message)
    sagefm.tl.embed(stored, default)
    np.testing.assert_array_equal(stored.obsm["X_sagefm"], expected.obsm["X_sagefm"])


@pytest.mark.parametrize("suffix", [("-0", "-1"), ("_1", "_2")])
def test_sections_that_only_the_names_of_spots_tell_apart(suffix, section, default, rejects):
    both = two_sections(section, suffix)
    message = rejects(
        CoordinatesError, both, lambda: sagefm.tl.embed(both, default), "no column", "library_key='section'"
    )
    named = repaired(both, message)
    assert named.obs["section"].value_counts().tolist() == [400, 400]
    sagefm.tl.embed(named, default, library_key="section")


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_sections_that_nothing_tells_apart(section, default, rejects):
    section.obs = section.obs[[]]
    both = two_sections(section)
    rejects(CoordinatesError, both, lambda: sagefm.tl.embed(both, default), "no column", "anndata.concat(")


def test_names_with_decimals_are_no_array_positions(section, default):
    """Spots of Spatial Transcriptomics that are named by where they were measured to be."""
    section.obs = section.obs[[]]
    section.obs_names = [f"X{i % 20}.{i % 7 + 1}x{i // 20}.01" for i in range(400)]
    sagefm.tl.embed(section, default)


def test_one_of_joined_sections(section, default):
    """What is left over in ``uns`` and ``obs`` of a table that was cut to one section is no evidence."""
    both = two_sections(section, ("-a", "-b"))
    both.uns["spatial"] = {name: {"scalefactors": {}} for name in "ab"}
    both.obs["library_id"] = pd.Categorical(np.repeat(["a", "b"], 400))
    sagefm.tl.embed(both[:400].copy(), default)


def test_a_column_that_does_not_tell_all_sections_apart(section, default):
    both = two_sections(section, ("-0", "-1"))
    both.obs["donor"] = np.where(np.arange(800) % 2, "one", "two")
    call = lambda: sagefm.pp.spatial_neighbors(both, library_key="donor")
    warned(call, "library_key='donor' hold several sections", "400 of 800 barcodes")


@pytest.mark.parametrize("key", ["sample", "SampleID", "orig.ident", "slice_name", "capture area"])
def test_sections_side_by_side_are_told(key, section, default):
    section.obs = section.obs[[]]
    section.obs["sample"] = np.repeat(["left", "right"], 200)
    message = warned(
        lambda: sagefm.tl.embed(section, default), "adata.obs['sample'] has 2 values", "library_key='sample'"
    )
    stored = repaired(section, message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sagefm.tl.embed(stored, default)


# Array indices for coordinates


@pytest.fixture
def visium():
    """600 spots of a real section, near its middle."""
    adata = sagefm.datasets.dlpfc()
    place = adata.obsm["spatial"]
    return adata[np.argsort(((place - np.median(place, axis=0)) ** 2).sum(axis=1))[:600]].copy()


ARRAYS = {
    "rows, columns": lambda array: array,
    "columns, rows": lambda array: array[:, ::-1],
    "scaled": lambda array: array * 100.0 + 7,
    "mirrored and scaled": lambda array: array[:, ::-1] * [-50.0, 50.0],
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_array_indices_are_told(kind, visium):
    pixels = visium.obsm["spatial"].copy()
    nearest = mean_distance(pixels, graph_of(visium.copy()))
    array = visium.obs[["array_row", "array_col"]].to_numpy()
    visium.obsm["spatial"] = ARRAYS[kind](array)
    message = warned(lambda: sagefm.pp.spatial_neighbors(visium), "rows and columns of the array")
    assert mean_distance(pixels, visium.obsp["sagefm_connectivities"]) > 1.03 * nearest
    assert mean_distance(pixels, graph_of(repaired(visium, message))) == pytest.approx(nearest, rel=1e-3)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
@pytest.mark.parametrize("unit", [1.0, 100.0])
def test_array_indices_without_the_columns_of_the_array(unit, order):
    adata = sagefm.datasets.dlpfc()
    pixels = adata.obsm["spatial"].copy()
    nearest = mean_distance(pixels, graph_of(adata.copy()))
    adata.obsm["spatial"] = adata.obs[["array_row", "array_col"]].to_numpy()[:, order] * unit
    adata.obs = adata.obs[[]]
    message = warned(lambda: sagefm.pp.spatial_neighbors(adata), "rows and columns of the array")
    assert mean_distance(pixels, graph_of(repaired(adata, message))) == pytest.approx(nearest, rel=1e-3)


def test_coordinates_that_only_look_like_array_indices(visium, synovium, section):
    """To scale; a square array, whose positions are coordinates; an interleaved one; whole pixels."""
    visium.obsm["spatial"] = visium.obs[["array_col", "array_row"]].to_numpy() * HEXAGON
    graph_of(visium)
    synovium.obsm["spatial"] = synovium.obs[["array_row", "array_col"]].to_numpy().astype(float)
    graph_of(synovium)
    array = section.obs[["array_row", "array_col"]].to_numpy() % 60
    assert array.max() < 70
    section.obsm["spatial"] = array * 100.0
    graph_of(section.copy())
    section.obs = section.obs[[]]
    graph_of(section)


def test_libraries_that_no_column_names_are_told(section, default):
    section.uns["spatial"] = {name: {"scalefactors": {}} for name in ("a", "b")}
    warned(
        lambda: sagefm.tl.embed(section.copy(), default),
        "names 2 libraries, 'a', 'b', and no column",
        "anndata.concat(",
    )
    section.obs["slide"] = "a"
    sagefm.tl.embed(section, default)


# Many spots at one place, and one far from all


def test_coordinates_that_were_lost(synovium, rejects):
    pixels = synovium.obsm["spatial"].copy()
    synovium.obsm["spatial"] = np.zeros((302, 2))
    call = lambda: sagefm.pp.spatial_neighbors(synovium)
    message = rejects(CoordinatesError, synovium, call, "302 of 302 spots", "positions on the array")
    found = graph_of(repaired(synovium, message))
    synovium.obsm["spatial"] = pixels
    assert (found != graph_of(synovium)).nnz == 0

    synovium.obs["imagerow"], synovium.obs["imagecol"] = pixels[:, 1], pixels[:, 0]
    synovium.obsm["spatial"] = np.zeros((302, 2))
    np.testing.assert_array_equal(repaired(synovium, rejects(CoordinatesError, synovium, call)).obsm["spatial"], pixels)
    synovium.obsm["spatial"] = np.full((302, 2), np.nan)
    message = rejects(CoordinatesError, synovium, call, "all 302 spots", "the table has others".capitalize())
    np.testing.assert_array_equal(repaired(synovium, message).obsm["spatial"], pixels)
    del synovium.obsm["spatial"]
    message = rejects(MissingKeyError, synovium, call, "squidpy.read.visium", "The table has others")
    np.testing.assert_array_equal(repaired(synovium, message).obsm["spatial"], pixels)
    synovium.obs = synovium.obs[[]]
    for lost in (np.zeros((302, 2)), np.full((302, 2), np.inf)):
        synovium.obsm["spatial"] = lost
        rejects(CoordinatesError, synovium, call, "squidpy.read.visium")


@pytest.mark.parametrize("n", [10, 9])
def test_few_spots_at_a_placeholder(n, section, default):
    section.obsm["spatial"][50 : 50 + n] = 0
    message = warned(
        lambda: sagefm.tl.embed(section, default), f"{n} spots have the coordinates", "(0.0, 0.0) stand for no place"
    )
    assert repaired(section, message).n_obs == 399 - n


def test_spots_at_a_placeholder(section, rejects):
    section.obsm["spatial"][50:90] = -1
    message = rejects(
        CoordinatesError, section, lambda: sagefm.pp.spatial_neighbors(section), "40 of 400", "(-1.0, -1.0)"
    )
    kept = repaired(section, message)
    assert kept.n_obs == 360
    graph_of(kept)


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_cells_that_were_laid_on_spots(section, default, rejects):
    cells = section[np.repeat(np.arange(20), 20)].copy()
    cells.obs_names = [f"cell{i}" for i in range(400)]
    cells.obs = cells.obs[[]]
    message = rejects(
        CoordinatesError, cells, lambda: sagefm.tl.embed(cells, default), "one row a spot", "aggregate_bins"
    )
    spots = repaired(cells, message)
    assert spots.n_obs == 20
    assert spots.X.sum() == cells.X.sum()
    sagefm.tl.embed(spots, default)


def test_rows_of_one_spot_are_added_up(section, default):
    section.obsm["spatial"][1] = section.obsm["spatial"][0]
    message = warned(lambda: sagefm.tl.embed(section, default), "1 spots have the coordinates of another spot")
    assert repaired(section, message).n_obs == 399


@pytest.mark.parametrize("place", [(0.0, 0.0), (1e6, 1e6), (-9999.0, 40.0)])
def test_a_spot_that_is_far_from_all_others(place, section, default):
    section.obsm["spatial"] += 1000
    section.obsm["spatial"][7] = place
    message = warned(lambda: sagefm.tl.embed(section, default), repr(section.obs_names[7]), "placeholder")
    kept = repaired(section, message)
    assert kept.obs_names.equals(section.obs_names.delete(7))
    graph_of(kept)


def test_pieces_of_tissue_are_not_far(section, default):
    """Of two pieces, one is small and 20 spots away; a lone spot is nearly as far."""
    section.obsm["spatial"][390:] += 2000
    section.obsm["spatial"][0] -= 1500
    sagefm.tl.embed(section, default)


# Bins


def as_bins(section, kind):
    section.obsm["spatial"] = section.obsm["spatial"] * 0.08  # 8 um apart
    if kind == "names":
        section.obs_names = [f"s_008um_{i:05d}_{i:05d}-1" for i in range(400)]
    elif kind == "library":
        section.uns["spatial"] = {"Tumor_square_008um": {"scalefactors": {}}}
    elif kind == "region":
        section.obs["region"] = "Tumor_square_008um"
    elif kind == "Stereo-seq":
        section.uns["bin_size"] = 16
    else:
        section.uns["spatial"] = {"lib": {"scalefactors": {kind: 8.0 if kind == "bin_size_um" else 1.0}}}
    return section


@pytest.mark.parametrize("kind", ["names", "library", "region", "Stereo-seq", "bin_size_um", "microns_per_pixel"])
def test_bins_are_told(kind, section, default):
    bins = as_bins(section, kind)
    message = warned(lambda: sagefm.tl.embed(bins, default), "8 um", "aggregate_bins(adata, width=100)")
    tiles = repaired(bins, message)
    assert tiles.n_obs < 10
    assert tiles.X.sum() == bins.X.sum()


@pytest.mark.parametrize(
    "spatial",
    [
        {"is_single": np.bool_(False)},
        {"library": {"scalefactors": {}}, "is_single": np.bool_(True)},
        {"library": {"scalefactors": None}},
        {"library": {"scalefactors": {"bin_size_um": "eight", "microns_per_pixel": np.nan}}},
        {"library": None},
        np.zeros((3, 2)),
        "nothing",
        None,
    ],
    ids=str,
)
def test_uns_may_hold_anything(spatial, section, default, run_verbs, of_section, assert_same):
    section.uns["spatial"] = spatial
    assert_same(run_verbs(section, default), of_section)
    SAGEFM.setup_anndata(section)
    sagefm.pp.aggregate_bins(section, width=300.0)
    assert sagefm.pp.check(section, default, verbose=False).ok
