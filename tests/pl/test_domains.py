"""What the picture of domains contains: colors, paleness, lines between domains, panels."""

from __future__ import annotations

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.collections import EllipseCollection, LineCollection

from sagefm import pl
from sagefm.errors import ArgumentError, MissingKeyError


def section(coordinates, domain) -> ad.AnnData:
    obs = pd.DataFrame({"sagefm_domain": pd.Categorical(domain)}, index=[f"spot{i}" for i in range(len(domain))])
    adata = ad.AnnData(np.ones((len(domain), 1), np.float32), obs=obs)
    adata.obsm["spatial"] = np.asarray(coordinates, dtype=float)
    return adata


@pytest.fixture
def square() -> ad.AnnData:
    """6 x 6 spots, 10 apart; the two domains meet between columns 2 and 3."""
    xy = 10.0 * np.indices((6, 6))[::-1].reshape(2, -1).T
    return section(xy, np.where(xy[:, 0] < 25, "0", "1"))


@pytest.fixture
def hexagonal() -> ad.AnnData:
    row, column = np.divmod(np.arange(60), 10)
    xy = np.column_stack([column + 0.5 * (row % 2), row * np.sqrt(3) / 2])
    return section(xy, np.where(row < 3, "0", "1"))


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def drawn(ax, kind):
    return [item for item in ax.collections if isinstance(item, kind)]


def colors(ax):
    return drawn(ax, EllipseCollection)[0].get_facecolors()[:, :3]


def test_lines_lie_between_domains(square):
    (lines,) = drawn(pl.domains(square), LineCollection)
    sides = np.array(lines.get_segments())
    assert len(sides) >= 4
    np.testing.assert_allclose(sides[:, :, 0], 25, atol=1e-3)
    assert np.ptp(sides[:, :, 1]) == pytest.approx(40, abs=0.1)  # of the inner rows; at the edge cells are open


def test_lines_of_a_hexagonal_array(hexagonal):
    (lines,) = drawn(pl.domains(hexagonal), LineCollection)
    sides = np.array(lines.get_segments())
    np.testing.assert_allclose(np.linalg.norm(sides[:, 0] - sides[:, 1], axis=1), 1 / np.sqrt(3), atol=1e-3)
    assert sides[:, :, 1].min() > hexagonal.obsm["spatial"][20, 1]
    assert sides[:, :, 1].max() < hexagonal.obsm["spatial"][30, 1]


def test_no_lines(square):
    assert not drawn(pl.domains(square, borders=False), LineCollection)
    square.obs["sagefm_domain"] = pd.Categorical(["0"] * 36)
    (lines,) = drawn(pl.domains(square), LineCollection)
    assert len(lines.get_segments()) == 0


def test_few_spots():
    """On a line, at one place, and one alone."""
    for xy in ([[0, 0], [1, 0], [2, 0], [3, 0], [4, 0]], [[0, 0]] * 5, [[0, 0]]):
        pl.domains(section(xy, ["0"] + ["1"] * (len(xy) - 1))).figure.canvas.draw()


def test_improbable_spots_are_paler(square):
    full = colors(pl.domains(square))
    square.obs["sagefm_domain_probability"] = np.where(np.arange(36) == 7, 0.5, 1.0)
    pale = colors(pl.domains(square))
    changed = np.flatnonzero((pale != full).any(axis=1))
    assert changed.tolist() == [7]
    assert (pale[7] >= full[7]).all()
    np.testing.assert_array_equal(colors(pl.domains(square, probability=False)), full)


def test_stored_colors(square):
    square.uns["sagefm_domain_colors"] = ["#ff0000", "#0000ff"]
    np.testing.assert_allclose(np.unique(colors(pl.domains(square)), axis=0), [[0, 0, 1], [1, 0, 0]])


def test_spots_without_a_domain(square):
    square.obs["sagefm_domain"] = square.obs["sagefm_domain"].cat.remove_categories("1")
    assert len(np.unique(colors(pl.domains(square)), axis=0)) == 2
    assert [text.get_text() for text in pl.domains(square).get_legend().get_texts()] == ["0"]


def test_a_domain_has_one_color_in_all_sections(square):
    """Though one section lacks the first domain."""
    square.obs["library"] = np.where(square.obsm["spatial"][:, 0] < 35, "A", "B")
    first, second = pl.domains(square, library_key="library")
    assert [ax.get_title() for ax in (first, second)] == ["A", "B"]
    assert first.get_legend() is None
    assert [text.get_text() for text in second.get_legend().get_texts()] == ["0", "1"]
    (only,) = np.unique(colors(second), axis=0)
    assert (only == colors(first)[3]).all()
    alone = pl.domains(square, library_key="library", library="B")
    assert (colors(alone) == only).all()


def test_axes_title_and_legend(square):
    _, ax = plt.subplots()
    assert pl.domains(square, ax=ax, title="Domains", legend=False) is ax
    assert ax.get_title() == "Domains"
    assert ax.get_legend() is None
    with pytest.raises(ArgumentError, match="expected 1"):
        pl.domains(square, ax=plt.subplots(1, 2)[1])


def test_other_columns(square):
    square.obs["region"] = np.where(np.arange(36) < 18, "x", "y")
    assert pl.domains(square, key="region").get_title() == "region"


def test_what_is_missing(square):
    with pytest.raises(MissingKeyError, match=r"sagefm.tl.domains\(adata, key_added='other'\)"):
        pl.domains(square, key="other")
    del square.obs["sagefm_domain"]
    with pytest.raises(MissingKeyError, match=r"sagefm.tl.domains\(adata\)"):
        pl.domains(square)


def test_nothing_is_clipped_and_nothing_changes(hexagonal):
    before = hexagonal.copy()
    figure = pl.domains(hexagonal).figure
    figure.canvas.draw()
    box = figure.get_tightbbox(figure.canvas.get_renderer())
    width, height = figure.get_size_inches()
    assert min(box.x0, box.y0) >= -0.01
    assert box.x1 <= width + 0.01
    assert box.y1 <= height + 0.01
    pd.testing.assert_frame_equal(hexagonal.obs, before.obs)
    assert set(hexagonal.uns) == set(before.uns)
