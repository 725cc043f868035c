"""Plots on the image of the tissue: where spots come to lie on it, of AnnData and SpatialData, and what is said without."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from tests.space_ranger import SCALE, write_folder

import sagefm
from sagefm.errors import SagefmError
from sagefm.pl._image import find_image


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    whole = sagefm.datasets.dlpfc()
    near = whole.obs["array_row"].between(20, 40) & whole.obs["array_col"].between(30, 70)
    return write_folder(tmp_path_factory.mktemp("image") / "brain" / "outs", whole[near].copy(), whole[~near].copy())


def read_spatialdata(folder):
    spatialdata_io = pytest.importorskip("spatialdata_io", reason="pip install 'sagefm[interop]'")
    return spatialdata_io.visium(folder, dataset_id="brain")


def pixel(image, xy):
    """The pixel of an image under a coordinate."""
    x, y, _ = np.linalg.inv(image.to_coordinates) @ [*xy, 1]
    return image.pixels[int(y), int(x)]


@pytest.mark.parametrize("reader", ["sagefm", "spatialdata-io", "centroids", "a level"])
def test_spots_lie_on_the_tissue(reader, folder):
    """Tissue is violet in the fixture's image, and the slide around it is grey."""
    data = sagefm.io.read(folder) if reader == "sagefm" else read_spatialdata(folder)
    table = sagefm.data._table.get_table(data)
    places = table.obsm["spatial"].astype(float)
    if reader == "centroids":
        del table.obsm["spatial"]
    if reader == "a level":
        # Hires and lowres as the levels of one image.
        from spatialdata.models import Image2DModel
        from spatialdata.transformations import get_transformation

        hires = data.images["brain_hires_image"]
        steps = get_transformation(hires, get_all=True)
        data.images["brain_hires_image"] = Image2DModel.parse(
            hires.data, dims=("c", "y", "x"), scale_factors=[2], transformations=steps
        )
    image = find_image(data, table, np.arange(table.n_obs), "spatial", None)
    assert image.pixels.dtype == np.uint8
    colors = np.array([pixel(image, place) for place in places]).astype(int)
    assert (colors[:, 0] - colors[:, 1] > 10).mean() > 0.95
    assert np.ptp(pixel(image, places.max(axis=0) + 450).astype(int)) < 20


def test_all_maps_take_an_image(folder):
    adata = sagefm.io.read(folder)
    sagefm.tl.domains(adata, 3)
    sagefm.tl.embed(adata)
    sagefm.tl.impute(adata, genes=["MBP"])
    genes = {"sources": ["PTN"], "targets": ["PTPRZ1"]}
    sagefm.tl.regulatory_network(adata, **genes, fields=True)
    panels = [
        sagefm.pl.domains(adata, img=True),
        sagefm.pl.embedding(adata, img=True),
        sagefm.pl.embedding(adata, color="array_row", img=True),
        *sagefm.pl.imputation(adata, "MBP", img=True),
        *sagefm.pl.coupling(adata, "PTN", "PTPRZ1", img=True)[:2],
    ]
    for panel in panels:
        (image,) = panel.images
        assert image.get_zorder() < panel.collections[0].get_zorder()
        low, high = panel.get_ylim()
        assert low > high
        # In data units: the image ends where the slide does.
        width = image.get_array().shape[1] / SCALE["tissue_hires_scalef"]
        corner = panel.transData.inverted().transform(image.get_transform().transform([image.get_extent()[1], 0]))
        assert corner[0] == pytest.approx(width)
    plain = sagefm.pl.domains(adata)
    assert not plain.images
    widths = [panel.collections[0].get_widths()[0] for panel in (panels[0], plain)]
    assert widths[0] == pytest.approx(0.55 * widths[1])


def test_without_an_image(section):
    with pytest.raises(SagefmError, match=r"no image of the tissue.*img=False"):
        sagefm.pl.embedding(section, color="array_row" if "array_row" in section.obs else None, img=True)
