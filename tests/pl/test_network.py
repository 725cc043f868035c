"""What the pictures of couplings contain, of couplings that were computed on simulated tissue."""

from __future__ import annotations

from typing import Any

import anndata as ad
import matplotlib as mpl
import numpy as np
import pytest
from mudata import MuData

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.colors import to_rgba

import sagefm
from sagefm import pl
from sagefm.errors import ArgumentError, MissingKeyError
from sagefm.pl._network import NEGATIVE, POSITIVE

KEY = "sagefm_network"


@pytest.fixture(scope="module")
def _network() -> ad.AnnData:
    adata = sagefm.datasets.simulate(400, n_genes=200, n_effects=6, n_decoys=6, strength=1.0, rng=1)
    pairs = adata.uns["truth"].query("kind == 'planted'")
    genes = [*pairs["source"], *pairs["target"]]
    sagefm.tl.regulatory_network(adata, sources=genes, targets=genes, null="rotation", fields=True)
    return adata


@pytest.fixture
def adata(_network: ad.AnnData) -> ad.AnnData:
    return _network.copy()


@pytest.fixture(scope="module")
def of_libraries() -> ad.AnnData:
    adata = sagefm.datasets.simulate(150, n_genes=200, n_sections=2, n_effects=4, n_decoys=2, rng=2)
    pairs = adata.uns["truth"]
    genes = {"sources": list(pairs["source"]), "targets": list(pairs["target"])}
    sagefm.tl.regulatory_network(adata, **genes, library_key="library", null="rotation", fields=True)
    return adata


@pytest.fixture(autouse=True)
def _close():
    before = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == before
    plt.close("all")


def edges(adata: ad.AnnData) -> Any:
    return adata.uns[KEY]["edges"]


def strongest(adata: ad.AnnData) -> Any:
    return edges(adata).iloc[0]


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


PICTURES = {
    "network": lambda a: pl.network(a),
    "all": lambda a: pl.network(a, max_qval=None),
    "none": lambda a: pl.network(a, max_qval=1e-300),
    "targets": lambda a: pl.network(a, source=strongest(a)["source"]),
    "coupling": lambda a: pl.coupling(a, strongest(a)["source"], strongest(a)["target"]),
    "calibration": lambda a: pl.calibration(a),
}


@pytest.mark.parametrize("name", PICTURES)
def test_nothing_is_clipped_and_nothing_changes(name, adata, state):
    before = state(adata)
    figure = np.ravel(np.asarray(PICTURES[name](adata), dtype=object))[0].figure
    figure.canvas.draw()
    box = figure.get_tightbbox(figure.canvas.get_renderer())  # inches
    width, height = figure.get_size_inches()
    assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -0.01
    assert state(adata) == before


def test_network_draws_each_pair_once(adata):
    """Genes were tested both ways: of the two couplings the more significant one is drawn."""
    ax = pl.network(adata, max_qval=None, n_edges=8)
    (lines,) = [item for item in ax.collections if isinstance(item, LineCollection)]
    places = {text.get_text(): tuple(text.get_position()) for text in ax.texts}
    drawn = {}
    for path, width, color in zip(lines.get_paths(), lines.get_linewidths(), lines.get_colors(), strict=True):
        ends = [tuple(point) for point in path.vertices]
        pair = frozenset(gene for gene, place in places.items() if any(np.allclose(place, end) for end in ends))
        drawn[pair] = (width, tuple(color[:3]))

    expected = {}
    for edge in edges(adata).itertuples():
        expected.setdefault(frozenset([edge.source, edge.target]), edge)
    expected = dict(list(expected.items())[:8])
    assert set(drawn) == set(expected)
    assert set(places) == set().union(*expected)
    for pair, edge in expected.items():
        assert drawn[pair][1] == to_rgba(POSITIVE if edge.z > 0 else NEGATIVE)[:3]
    order = sorted(expected, key=lambda pair: abs(expected[pair].z))
    widths = [drawn[pair][0] for pair in order]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]


def test_network_is_placed_alike_each_time(adata):
    places = [[text.get_position() for text in pl.network(adata).texts] for _ in range(2)]
    assert places[0] == places[1]


def test_network_keeps_significant_couplings(adata):
    significant = edges(adata).query("qval < 0.05")
    assert 0 < len(significant) < len(edges(adata))
    assert set(texts(pl.network(adata))) == {*significant["source"], *significant["target"]}


def test_network_without_couplings_says_what_to_do(adata):
    (text,) = texts(pl.network(adata, max_qval=1e-300))
    best = strongest(adata)
    for words in (
        "No coupling with q < 1e-300 among 132 pairs",
        f"{best['source']} → {best['target']}",
        "max_qval=None",
    ):
        assert words in text
    adata.uns[KEY]["edges"] = edges(adata)[:0]
    (text,) = texts(pl.network(adata, max_qval=None))
    assert text.startswith("No coupling among")
    assert "sources=" in text


def test_targets_of_a_source(adata):
    source = strongest(adata)["source"]
    rows = edges(adata).query("source == @source").head(5)
    ax = pl.network(adata, source=source, n_edges=5)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(rows["target"])
    np.testing.assert_allclose([bar.get_width() for bar in ax.patches], rows["effect"], rtol=1e-6)
    assert [bar.get_alpha() > 0.5 for bar in ax.patches] == list(rows["qval"] < 0.05)
    (intervals,) = [item for item in ax.collections if isinstance(item, LineCollection)]
    ends = np.array([path.vertices[:, 0] for path in intervals.get_paths()])
    np.testing.assert_allclose(ends[:, 1] - ends[:, 0], 2 * 1.96 * rows["se"], rtol=1e-5)
    assert source in ax.get_title()


def test_coupling(adata):
    best = strongest(adata)
    around, center, curve = pl.coupling(adata, best["source"], best["target"])
    for ax, side, gene in ((around, "around", best["source"]), (center, "center", best["target"])):
        (spots,) = [item for item in ax.collections if isinstance(item, EllipseCollection)]
        np.testing.assert_allclose(spots.get_array(), adata.obsm[f"{KEY}_{side}"][gene])
        low, high = spots.get_clim()
        assert low == -high
        assert gene in ax.get_title()
    x, y = (
        adata.obsm[f"{KEY}_{side}"][best[name]].to_numpy(float)
        for side, name in (("around", "source"), ("center", "target"))
    )
    means, fit, *_ = [line for line in curve.lines if len(line.get_xdata()) > 1 and line.get_label()[0] != "_"]
    bins = np.array_split(np.argsort(x, kind="stable"), 10)
    np.testing.assert_allclose(means.get_xydata(), [(x[i].mean(), y[i].mean()) for i in bins])
    (x0, x1), (y0, y1) = fit.get_data()
    assert (y1 - y0) / (x1 - x0) == pytest.approx(np.polyfit(x, y, 1)[0], rel=1e-4)
    assert (y1 - y0) / (x1 - x0) == pytest.approx(best["r"])
    (text,) = texts(curve)
    assert text.split("\n")[0].startswith("effect = ")
    assert f"{best['effect']:.2g}".lstrip("-") in text
    assert "q = " in text
    assert "detectable effect = " in text


def test_coupling_of_a_library(of_libraries):
    pair = edges(of_libraries).query("library == 'section2'").iloc[0]
    where = {"library_key": "library", "library": "section2"}
    around, _, curve = pl.coupling(of_libraries, pair["source"], pair["target"], **where)
    rows = of_libraries.obs["library"] == "section2"
    np.testing.assert_array_equal(around.collections[0].get_offsets(), of_libraries.obsm["spatial"][rows])
    fit = next(line for line in curve.lines if line.get_label() == "fit")
    (x0, x1), (y0, y1) = fit.get_data()
    assert (y1 - y0) / (x1 - x0) == pytest.approx(pair["r"])
    with pytest.raises(ArgumentError, match="library="):
        pl.coupling(of_libraries, pair["source"], pair["target"], library_key="library")


def test_network_of_libraries(of_libraries):
    combined = edges(of_libraries).query("library == 'combined'").iloc[0]
    ax = pl.network(of_libraries, source=combined["source"], n_edges=1)
    assert ax.patches[0].get_width() == pytest.approx(combined["effect"])
    own = edges(of_libraries).query("library == 'section1' and source == @combined['source']").iloc[0]
    ax = pl.network(of_libraries, source=combined["source"], library="section1", n_edges=1)
    assert ax.patches[0].get_width() == pytest.approx(own["effect"])
    with pytest.raises(MissingKeyError, match="section1"):
        pl.network(of_libraries, library="section9")
    null = of_libraries.uns[KEY]["null"]
    lines = {line.get_label(): line for line in pl.calibration(of_libraries).lines}
    means = null.groupby("level")["observed"].mean()
    np.testing.assert_allclose(lines["observed"].get_xdata(), means.index)
    np.testing.assert_allclose(lines["observed"].get_ydata(), means.where(means > 0))


def test_calibration(adata):
    null = adata.uns[KEY]["null"].sort_values("level")
    ax = pl.calibration(adata)
    lines = {line.get_label(): line for line in ax.lines}
    assert set(lines) == {"expected without couplings", "observed", f"tissue turned ({null['n_turns'].iloc[0]} ways)"}
    np.testing.assert_allclose(lines["observed"].get_ydata(), null["observed"].where(null["observed"] > 0))
    assert ax.get_xscale() == ax.get_yscale() == "log"


def test_axes_of_the_user_are_drawn_into(adata):
    best = strongest(adata)
    figure, axes = plt.subplots(1, 5)
    assert pl.network(adata, ax=axes[0]) is axes[0]
    assert pl.calibration(adata, ax=axes[1]) is axes[1]
    assert list(pl.coupling(adata, best["source"], best["target"], axes=axes[2:])) == list(axes[2:])
    assert plt.get_fignums() == [figure.number]


def test_legend_and_q_values_take_their_room_from_the_axes_where_nothing_else_gives_it(adata):
    for source in (None, strongest(adata)["source"]):
        _, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
        pl.network(adata, source=source, n_edges=4, ax=left)
        left.figure.canvas.draw()
        assert left.get_tightbbox().x1 < right.get_window_extent().x0


def test_couplings_of_a_modality(adata):
    best = strongest(adata)
    protein = ad.AnnData(np.ones((adata.n_obs, 2), np.float32), obs=adata.obs[[]])
    data = MuData({"rna": adata, "protein": protein})
    assert texts(pl.network(data, mod="rna")) == texts(pl.network(adata))
    curves = [pl.coupling(d, best["source"], best["target"], **w)[2] for d, w in ((data, {"mod": "rna"}), (adata, {}))]
    assert texts(curves[0]) == texts(curves[1])
    assert len(pl.calibration(data, mod="rna").lines) == 3
    with pytest.raises(MissingKeyError, match="mod"):
        pl.network(data)


def test_couplings_of_a_corpus_are_drawn_from_what_was_returned(adata):
    result = adata.uns[KEY]
    assert texts(pl.network(result)) == texts(pl.network(adata))
    assert len(pl.calibration(result).lines) == 3


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda a: pl.network(a, key="other"), MissingKeyError, "tl.regulatory_network"),
        (lambda a: pl.network(a, n_edges=0), ArgumentError, "n_edges"),
        (lambda a: pl.network(a, library="A"), ArgumentError, "library=None"),
        (lambda a: pl.network(a, source="NOGENE"), MissingKeyError, r"sources=\['NOGENE'\]"),
        (lambda a: pl.coupling(a, "NOGENE", "OTHER"), MissingKeyError, r"targets=\['OTHER'\], fields=True"),
        (lambda a: pl.coupling(a, *strongest(a)[:2], n_bins=1), ArgumentError, "n_bins=1"),
        (lambda a: pl.coupling(a, *strongest(a)[:2], key="other"), MissingKeyError, "tl.regulatory_network"),
        (lambda a: pl.calibration(a, key="other"), MissingKeyError, "tl.regulatory_network"),
    ],
)  # fmt: skip
def test_errors_name_the_repair_and_open_no_figure(adata, call, error, match):
    with pytest.raises(error, match=match):
        call(adata)
    assert plt.get_fignums() == []


def test_what_was_not_kept_is_asked_for(adata):
    best = strongest(adata)
    sagefm.tl.regulatory_network(adata, sources=[best["source"]], targets=[best["target"]])
    assert not {f"{KEY}_around", f"{KEY}_center"} & set(adata.obsm)
    with pytest.raises(MissingKeyError, match="fields=True"):
        pl.coupling(adata, best["source"], best["target"])
    with pytest.raises(MissingKeyError, match="rotation"):
        pl.calibration(adata)


def test_networks_from_a_file(adata, tmp_path):
    adata.write_h5ad(tmp_path / "a.h5ad")
    stored = ad.read_h5ad(tmp_path / "a.h5ad")
    best = strongest(adata)
    assert texts(pl.network(stored)) == texts(pl.network(adata))
    curves = [pl.coupling(data, best["source"], best["target"])[2] for data in (stored, adata)]
    assert texts(curves[0]) == texts(curves[1])
