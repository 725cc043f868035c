"""SpatialData in and out: tables, coordinates of shapes, regions, zarr stores, plots."""

from __future__ import annotations

import geopandas as gpd
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from shapely import Point
from spatialdata.models import ShapesModel, TableModel
from spatialdata.transformations import Affine, Identity, Scale, set_transformation

import sagefm
from sagefm.errors import CoordinatesError, MissingKeyError
from sagefm.model import SAGEFM
from tests import OTHER_KERNELS
from tests.written import assert_everything_is_there


def circles(coordinates, ids) -> gpd.GeoDataFrame:
    return ShapesModel.parse(
        gpd.GeoDataFrame({"radius": 27.5}, geometry=[Point(xy) for xy in coordinates], index=ids),
        transformations={"global": Identity()},
    )


def spatial_data(adata, *, with_spatial: bool = True, names=("table",)) -> sd.SpatialData:
    """Spots as circles, and tables that annotate them; the circles are in another order than the table's rows."""
    ids = np.arange(adata.n_obs) * 3 + 7
    order = np.random.default_rng(0).permutation(adata.n_obs)
    shapes = circles(adata.obsm["spatial"][order], ids[order])
    tables = {}
    for name in names:
        table = adata.copy()
        table.obs["region"] = pd.Categorical(["spots"] * adata.n_obs)
        table.obs["spot_id"] = ids
        if not with_spatial:
            del table.obsm["spatial"]
        tables[name] = TableModel.parse(table, region="spots", region_key="region", instance_key="spot_id")
    return sd.SpatialData(shapes={"spots": shapes}, tables=tables)


@pytest.mark.parametrize("with_spatial", [True, False])
def test_spatialdata(with_spatial, section, default, of_section, run_verbs, assert_same):
    sdata = spatial_data(section, with_spatial=with_spatial)
    assert_same(run_verbs(sdata, default, table=lambda s: s["table"]), of_section)
    np.testing.assert_array_equal(sdata["table"].obsm["spatial"], section.obsm["spatial"])


def two_regions(sections, systems=("global", "global")) -> sd.SpatialData:
    """The circles of two sections, each in its own element, as spatialdata-io reads several samples."""
    shapes, table = {}, sections.copy()
    table.obs["spot_id"] = np.tile(np.arange(150), 2)
    for name, system in zip(sections.obs["library"].cat.categories, systems, strict=True):
        rows = (sections.obs["library"] == name).to_numpy()
        shapes[name] = circles(sections.obsm["spatial"][rows], np.arange(150))
        set_transformation(shapes[name], {system: Identity()}, set_all=True)
    del table.obsm["spatial"]
    table = TableModel.parse(table, region=list(shapes), region_key="library", instance_key="spot_id")
    return sd.SpatialData(shapes=shapes, tables={"table": table})


@pytest.mark.parametrize("systems", [("global", "global"), ("section1", "section2")])
@pytest.mark.parametrize("arguments", [{"library_key": "library"}, {}])
def test_regions_are_libraries(arguments, systems, sections, default, run_verbs, assert_same):
    expected = run_verbs(sections.copy(), default, library_key="library")
    sdata = two_regions(sections, systems)
    assert_same(run_verbs(sdata, default, table=lambda s: s["table"], **arguments), expected)
    table = sdata["table"]
    assert table.uns["sagefm"]["X_sagefm"]["library_key"] == "library"
    assert table.uns["sagefm_neighbors"]["params"]["library_key"] == "library"
    # The table by itself is read, and drawn, as it was within the object.
    alone = table.copy()
    sagefm.tl.embed(alone, default, key_added="again")
    np.testing.assert_array_equal(alone.obsm["again"], expected.embedding)
    sagefm.pl.embedding(alone, library="section2")
    with pytest.raises(sagefm.errors.ArgumentError, match=r"2 libraries in adata.obs\['library'\]"):
        sagefm.pl.embedding(alone)
    part = table[table.obs["library"] == "section2"].copy()
    sagefm.tl.embed(part, default)
    assert part.uns["sagefm"]["X_sagefm"]["library_key"] == "library"  # as the graph was stored
    np.testing.assert_allclose(part.obsm["X_sagefm"], expected.embedding[150:], **OTHER_KERNELS)


def test_a_model_of_regions(sections):
    """Set up without naming them, trained on one and validated on the other, and used on a single section."""
    sdata = two_regions(sections)
    SAGEFM.setup_spatialdata(sdata)
    model = SAGEFM(sdata, hidden=(8, 4))
    model.train(max_epochs=1, accelerator="cpu", validation_size=0.5)
    assert model.to_checkpoint().training["n_sections"] == 2
    held = sections.obs["library"].iloc[model.validation_indices_]
    assert held.nunique() == 1
    assert len(held) == 150
    one = sections[sections.obs["library"] == "section1"].copy()
    latent = model.get_latent_representation(two_regions(sections))
    np.testing.assert_allclose(model.get_latent_representation(one), latent[:150], **OTHER_KERNELS)


def test_several_tables_need_a_name(section, default, of_section, run_verbs, assert_same, rejects):
    sdata = spatial_data(section, names=("counts", "other"))
    rejects(MissingKeyError, sdata, lambda: sagefm.tl.embed(sdata, default), "table_key", "'counts'", "'other'")
    rejects(MissingKeyError, sdata, lambda: sagefm.tl.embed(sdata, default, table_key="x"), "table_key='x'", "'counts'")
    assert_same(run_verbs(sdata, default, table=lambda s: s["counts"], table_key="counts"), of_section)
    assert not any("sagefm" in key for key in sdata["other"].obsm)


def test_spatialdata_without_tables(section, default):
    sdata = sd.SpatialData(shapes=spatial_data(section).shapes)
    with pytest.raises(MissingKeyError, match="table_key"):
        sagefm.tl.embed(sdata, default)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda table: table.X.__setitem__((0, 0), -1), "negative"),
        (lambda table: table.obs.pop("domain"), "domain"),
    ],
)
def test_an_error_leaves_spatialdata_as_it_was(damage, error, section, default, rejects):
    sdata = spatial_data(section, with_spatial=False)
    sdata["table"].X = sdata["table"].X.toarray()
    damage(sdata["table"])
    call = lambda: sagefm.tl.embed(sdata, default, library_key="domain")
    rejects({"negative": sagefm.errors.CountsError, "domain": MissingKeyError}[error], sdata, call, error)


def test_spots_without_a_shape(section, default, rejects):
    sdata = spatial_data(section, with_spatial=False)
    sdata.shapes["spots"] = sdata.shapes["spots"].drop(index=[7, 10])
    rejects(CoordinatesError, sdata, lambda: sagefm.tl.embed(sdata, default), "2 of 400", "spots")


def test_copy_of_spatialdata(section, default, state, of_section):
    sdata = spatial_data(section, with_spatial=False)
    before = state(sdata)
    copy = sagefm.tl.embed(sdata, default, copy=True)
    assert isinstance(copy, sd.SpatialData)
    assert state(sdata) == before
    np.testing.assert_array_equal(copy["table"].obsm["X_sagefm"], of_section.embedding)


def test_spatialdata_on_disk(section, default, of_section, run_verbs, assert_same, tmp_path):
    spatial_data(section, with_spatial=False).write(tmp_path / "raw.zarr")
    sdata = sd.read_zarr(tmp_path / "raw.zarr")
    result = run_verbs(sdata, default, table=lambda s: s["table"])
    assert_same(result, of_section)
    sdata.write(tmp_path / "result.zarr")
    again = sd.read_zarr(tmp_path / "result.zarr")
    assert_everything_is_there(again["table"], sdata["table"])
    sagefm.tl.embed(again, default)
    np.testing.assert_array_equal(again["table"].obsm["X_sagefm"], of_section.embedding)


def test_shapes_in_other_units(section, default):
    """Spots are compared with spots: a transformation to another coordinate system changes no neighborhood."""
    sdata = spatial_data(section, with_spatial=False)
    sd.transformations.set_transformation(sdata.shapes["spots"], Scale([0.5, 0.5], ("x", "y")), "global")
    sagefm.tl.embed(section, default)
    sagefm.tl.embed(sdata, default)
    np.testing.assert_array_equal(sdata["table"].obsm["X_sagefm"], section.obsm["X_sagefm"])


def test_a_named_coordinate_system(section, default, rejects):
    """Neighborhoods in a system where the section is squeezed; it is not the default."""
    sdata = spatial_data(section, with_spatial=False)
    squeeze = Affine([[1, 0, 5], [0, 0.1, 0], [0, 0, 1]], ("x", "y"), ("x", "y"))
    set_transformation(sdata.shapes["spots"], squeeze, "squeezed")
    squeezed = section.copy()
    squeezed.obsm["spatial"] = section.obsm["spatial"] * [1, 0.1] + [5, 0]
    for adata in (section, squeezed):
        sagefm.tl.embed(adata, default)
    sagefm.tl.embed(sdata, default)
    with pytest.warns(UserWarning, match="it is replaced by one with spatial_key='squeezed'"):
        sagefm.tl.embed(sdata, default, spatial_key="squeezed", key_added="X_squeezed")
    found = sdata["table"].obsm
    np.testing.assert_array_equal(found["X_sagefm"], section.obsm["X_sagefm"])
    np.testing.assert_allclose(found["X_squeezed"], squeezed.obsm["X_sagefm"], **OTHER_KERNELS)
    assert np.abs(found["X_squeezed"] - found["X_sagefm"]).max() > 0.01
    rejects(MissingKeyError, sdata, lambda: sagefm.tl.embed(sdata, default, spatial_key="x"), "spatial_key='x'")


def test_a_coordinate_system_of_one_region(sections, default, rejects):
    sdata = two_regions(sections, ("section1", "section2"))
    call = lambda: sagefm.tl.embed(sdata, default, spatial_key="section1")
    rejects(CoordinatesError, sdata, call, "sdata.shapes['section2']", "['section2']", "spatial_key")


def test_results_are_added_to_a_store(section, default, of_section, tmp_path):
    spatial_data(section, with_spatial=False).write(tmp_path / "section.zarr")
    sdata = sd.read_zarr(tmp_path / "section.zarr")
    sagefm.tl.embed(sdata, default)
    sdata.delete_element_from_disk("table")
    sdata.write_element("table")
    again = sd.read_zarr(tmp_path / "section.zarr")
    assert set(again.shapes) == {"spots"}
    np.testing.assert_array_equal(again["table"].obsm["X_sagefm"], of_section.embedding)


def test_plots_of_spatialdata_plot(section, default):
    """Its accessor finds the results in the table: an imputed gene, and a dimension of the embedding."""
    pytest.importorskip("spatialdata_plot")
    sdata = spatial_data(section, with_spatial=False)
    sagefm.tl.impute(sdata, default, genes=["DBI"], progress=False)
    sagefm.tl.embed(sdata, default)
    sdata["table"].obs["first"] = sdata["table"].obsm["X_sagefm"][:, 0]
    for options in ({"color": "DBI", "table_layer": "sagefm_imputed"}, {"color": "first"}):
        _, ax = plt.subplots()
        sdata.pl.render_shapes("spots", table_name="table", method="matplotlib", **options).pl.show(ax=ax)
        ax.figure.canvas.draw()
        (spots,) = ax.collections
        assert len(spots.get_paths()) == 400
        assert len(np.unique(spots.get_facecolor(), axis=0)) > 100
    plt.close("all")


def test_setup_spatialdata(section):
    sdata = spatial_data(section, with_spatial=False)
    SAGEFM.setup_spatialdata(sdata)
    model = SAGEFM(sdata, hidden=(8, 4))
    model.train(max_epochs=1, accelerator="cpu")
    latent = model.get_latent_representation()
    np.testing.assert_array_equal(model.get_latent_representation(section), latent)
    np.testing.assert_array_equal(model.get_latent_representation(spatial_data(section)), latent)
    # Another object whose coordinates are in its shapes alone, and one of several tables.
    np.testing.assert_array_equal(model.get_latent_representation(spatial_data(section, with_spatial=False)), latent)
    several = spatial_data(section, with_spatial=False, names=("counts", "other"))
    again = SAGEFM.from_pretrained(model.to_checkpoint(), several, table_key="counts")
    np.testing.assert_array_equal(again.get_latent_representation(), latent)
    np.testing.assert_array_equal(again.get_latent_representation(several), latent)
