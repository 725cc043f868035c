"""What the pictures contain. No image baselines: collections, limits, labels and boxes are read."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import anndata as ad
import geopandas as gpd
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from mudata import MuData
from scipy.sparse import csr_matrix
from shapely import Point
from spatialdata import SpatialData
from spatialdata.models import ShapesModel, TableModel

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.collections import EllipseCollection, QuadMesh

from sagefm import pl
from sagefm.errors import ArgumentError, GenesError, MissingKeyError

PITCH = 100.0
SOURCES, TARGETS = ["TGFB1", "CXCL12", "VEGFA"], ["KDR", "CXCR4", "NOTCH2NLA"]


def hexagonal(n_rows: int = 10, n_columns: int = 12, *, seed: int = 0) -> ad.AnnData:
    """Return a small hexagonal section with everything that the verbs write."""
    rng = np.random.default_rng(seed)
    row, column = np.divmod(np.arange(n_rows * n_columns), n_columns)
    xy = np.stack([(column + row % 2 / 2) * PITCH, row * PITCH * np.sqrt(3) / 2], axis=1)
    n, genes = len(xy), ["GENE0", "GENE1", "GENE2", "GENE3"]
    counts = rng.poisson(3, (n, len(genes))).astype(np.float32)
    imputed = rng.gamma(3, 1, (n, len(genes))).astype(np.float32)
    imputed[:, 3] = np.nan
    adata = ad.AnnData(csr_matrix(counts), var=pd.DataFrame(index=genes))
    adata.obs_names = [f"spot{i}" for i in range(n)]
    adata.obs["library"] = np.where(row < n_rows / 2, "A", "B")
    adata.obsm["spatial"] = xy
    adata.obsm["X_sagefm"] = rng.normal(size=(n, 8)).astype(np.float32) * np.arange(8, 0, -1, dtype=np.float32)
    adata.layers["sagefm_imputed"] = imputed
    adata.var["sagefm_imputed"] = [True, True, True, False]
    adata.var["sagefm_imputed_r"] = [0.42, np.nan, 0.1, np.nan]
    adata.obsm["sagefm_imputed"] = pd.DataFrame({"UNMEASURED": rng.gamma(3, 1, n)}, index=adata.obs_names)
    adata.uns["sagefm"] = {"sagefm_imputed": {"scale": "counts"}, "X_sagefm": {}}

    distances = np.linalg.norm(xy[:, None] - xy, axis=-1)
    neighbors = np.argsort(distances, axis=1, kind="stable")[:, 1:15]
    graph = csr_matrix((np.ones(neighbors.size), (np.repeat(np.arange(n), 14), neighbors.ravel())), shape=(n, n))
    adata.obsp["sagefm_connectivities"] = graph

    scores, curves = [], []
    for i, source in enumerate(SOURCES):
        for j, target in enumerate(TARGETS):
            if (i, j) == (0, 2):
                continue
            effect = (i - j) / 2 + 0.25
            scores.append(
                (source, target, effect, effect, np.sign(effect), -effect / 8, 0.1, 0.01, 0.01 if i == j else 0.3, n)
            )
            curves += [(source, target, x, effect * x, effect * x - 0.1 * x, effect * x + 0.1 * x) for x in range(5)]
    adata.uns["sagefm_perturb"] = {
        "scores": pd.DataFrame(
            scores,
            columns=[
                "source",
                "target",
                "effect",
                "slope",
                "rho",
                "coupling",
                "coupling_se",
                "pval",
                "qval",
                "n_spots",
            ],
        ),
        "curves": pd.DataFrame(curves, columns=["source", "target", "level", "mean", "low", "high"]),
        "params": {"level_unit": "log1p counts", "response_unit": "expected counts"},
    }
    return adata


@pytest.fixture
def adata() -> ad.AnnData:
    return hexagonal()


@pytest.fixture(autouse=True)
def _close():
    before = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == before
    plt.close("all")


def spots(ax) -> EllipseCollection:
    (found,) = [item for item in ax.collections if isinstance(item, EllipseCollection)]
    return found


def fingerprint(adata: ad.AnnData) -> list[bytes]:
    arrays = [adata.X.toarray(), adata.obsm["spatial"], adata.obsm["X_sagefm"], adata.layers["sagefm_imputed"]]
    tables = (adata.uns["sagefm_perturb"][key] for key in ("scores", "curves"))
    frames = [adata.obs, adata.var, adata.obsm["sagefm_imputed"], *tables]
    keys = [sorted(map(str, m)) for m in (adata.uns, adata.uns["sagefm"], adata.obsm, adata.layers, adata.obsp)]
    return [*(a.tobytes() for a in arrays), *(f.to_csv().encode() for f in frames), str(keys).encode()]


def losses(train, validation) -> dict[str, pd.DataFrame]:
    columns = {"train_loss": train, "validation_loss": validation}
    return {k: pd.DataFrame({k: v}, index=pd.RangeIndex(len(v), name="epoch")) for k, v in columns.items()}


PICTURES = {
    "embedding": lambda a: pl.embedding(a),
    "components": lambda a: pl.embedding(a, components=[0, 3]),
    "categories": lambda a: pl.embedding(a, color="library"),
    "imputation": lambda a: pl.imputation(a, "GENE0"),
    "unmeasured": lambda a: pl.imputation(a, "UNMEASURED"),
    "perturbation": lambda a: pl.perturbation(a, "CXCL12", "NOTCH2NLA"),
    "heatmap": lambda a: pl.perturbation_heatmap(a),
    "neighborhood": lambda a: pl.neighborhood(a, "spot60"),
    "neighborhood at the edge": lambda a: pl.neighborhood(a, 0),
    "history": lambda a: pl.history(losses([3, 2, 1], [3, 2.5, 2.6])),
}


@pytest.mark.parametrize("name", PICTURES)
def test_nothing_is_clipped_and_nothing_changes(name, adata):
    before = fingerprint(adata)
    axes = np.ravel(np.asarray(PICTURES[name](adata), dtype=object))
    figure = axes[0].figure
    figure.canvas.draw()
    box = figure.get_tightbbox(figure.canvas.get_renderer())  # inches
    width, height = figure.get_size_inches()
    assert box.x0 >= -0.01
    assert box.y0 >= -0.01
    assert box.x1 <= width + 0.01
    assert box.y1 <= height + 0.01
    assert fingerprint(adata) == before


def test_spots_touch_in_data_units_and_rows_count_downward(adata):
    ax = pl.embedding(adata, size=0.9)
    drawn = spots(ax)
    np.testing.assert_array_equal(drawn.get_offsets(), adata.obsm["spatial"])
    np.testing.assert_allclose(drawn.get_widths(), 0.9 * PITCH)
    assert drawn.get_rasterized()
    assert ax.get_aspect() == 1
    assert ax.yaxis_inverted()
    assert not ax.xaxis_inverted()
    assert len(ax.get_xticks()) == len(ax.get_yticks()) == 0
    for figsize in [(4, 4), (8, 8)]:
        ax.figure.set_size_inches(figsize)
        ax.figure.canvas.draw()
        radius = drawn.get_transforms()[0][0, 0] * drawn.get_transform().transform((1, 0))[0]
        pitch = np.diff(ax.transData.transform([(0, 0), (PITCH, 0)])[:, 0])[0]
        assert 2 * radius == pytest.approx(0.9 * pitch)


def test_embedding_rgb_is_of_the_shown_spots_and_fixed_in_sign(adata):
    colors = spots(pl.embedding(adata)).get_facecolors()
    assert colors.shape == (adata.n_obs, 4)
    assert colors[:, :3].std(axis=0).min() > 0.05
    order = np.random.default_rng(1).permutation(adata.n_obs)
    np.testing.assert_allclose(spots(pl.embedding(adata[order])).get_facecolors(), colors[order], atol=1e-4)
    shown = spots(pl.embedding(adata, library_key="library", library="B"))
    alone = spots(pl.embedding(adata[adata.obs["library"] == "B"]))
    assert len(shown.get_offsets()) == 60
    np.testing.assert_allclose(shown.get_facecolors(), alone.get_facecolors(), atol=1e-6)


@pytest.mark.parametrize("n_latent", [1, 2])
def test_embedding_of_few_dimensions(adata, n_latent):
    adata.obsm["X_sagefm"] = adata.obsm["X_sagefm"][:, :n_latent]
    assert spots(pl.embedding(adata)).get_facecolors()[:, :3].std(axis=0).max() > 0.05


def test_embedding_components(adata):
    ax = pl.embedding(adata, components=2, title="mine", cmap="cividis")
    values = adata.obsm["X_sagefm"][:, 2]
    np.testing.assert_allclose(spots(ax).get_array(), values, rtol=1e-6)
    np.testing.assert_allclose(spots(ax).get_clim(), np.quantile(values, [0.01, 0.99]), rtol=1e-5)
    assert (ax.get_title(), spots(ax).get_cmap().name) == ("mine", "cividis")
    (bar,) = ax.child_axes
    ax.figure.canvas.draw()
    assert bar.get_position().height == pytest.approx(ax.get_position().height)
    axes = pl.embedding(adata, components=[0, 1, 5], colorbar=False)
    assert axes.shape == (3,)
    assert [a.get_title() for a in axes] == ["X_sagefm 0", "X_sagefm 1", "X_sagefm 5"]
    assert not any(a.child_axes for a in axes)


def test_given_axes_are_drawn_into(adata):
    figure, grid = plt.subplots(2, 4)
    (a, b, c, d), rest = grid
    assert pl.embedding(adata, ax=a) is a
    assert list(pl.embedding(adata, components=[0, 1], ax=[b, c])) == [b, c]
    assert pl.perturbation(adata, "VEGFA", "KDR", ax=d) is d
    assert list(pl.imputation(adata, "GENE1", axes=rest[:2])) == list(rest[:2])
    assert pl.perturbation_heatmap(adata, ax=rest[2]) is rest[2]
    assert pl.history(losses([1], [1]), ax=rest[3]) is rest[3]
    assert plt.get_fignums() == [figure.number]
    ax = plt.figure().add_axes((0, 0, 1, 1))
    assert pl.neighborhood(adata, 3, ax=ax) is ax
    with pytest.raises(ArgumentError, match="expected 2"):
        pl.imputation(adata, "GENE1", axes=a)
    with pytest.raises(ArgumentError, match="expected 1"):
        pl.embedding(adata, ax=[a, b])


def test_color_bar_takes_its_room_from_the_axes_where_nothing_else_gives_it(adata):
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 4))
    pl.embedding(adata, components=0, ax=left)
    left.figure.canvas.draw()
    assert left.get_tightbbox().x1 < right.get_window_extent().x0


def test_imputation(adata):
    measured, imputed = pl.imputation(adata, "GENE0")
    np.testing.assert_allclose(spots(measured).get_array(), np.log1p(adata.X[:, 0].toarray().ravel()), rtol=1e-6)
    expected = np.log1p(adata.layers["sagefm_imputed"][:, 0])
    np.testing.assert_allclose(spots(imputed).get_array(), expected, rtol=1e-6)
    np.testing.assert_allclose(spots(imputed).get_clim(), np.quantile(expected, [0.01, 0.99]), rtol=1e-5)
    assert (measured.get_title(), imputed.get_title()) == ("GENE0, measured", "GENE0, imputed (r = 0.42)")
    assert [a.child_axes[0].get_ylabel() for a in (measured, imputed)] == [
        "log1p of counts",
        "log1p of expected counts",
    ]
    assert pl.imputation(adata, "GENE1")[1].get_title() == "GENE1, imputed"
    adata.var["sagefm_imputed_trust"] = pd.Categorical(["weak", None, "good", "none"])
    assert pl.imputation(adata, "GENE0")[1].get_title() == "GENE0, imputed (r = 0.42, trust: weak)"
    assert pl.imputation(adata, "GENE1")[1].get_title() == "GENE1, imputed"


def test_imputation_weights(adata):
    with pytest.raises(MissingKeyError, match=r"no weights in adata.uns\['sagefm'\]\['sagefm_imputed'\]"):
        pl.imputation_weights(adata)
    rows = [
        (library, b, predictor, weight)
        for library in ("A", "B")
        for b in ("< 0.1", "> 0.1")
        for predictor, weight in (("ridge", 0.5), ("network", 0.25), ("oracle", 0.125))
    ]
    weights = pd.DataFrame(rows, columns=["library", "bin", "predictor", "weight"])
    adata.uns["sagefm"]["sagefm_imputed"] = {"scale": "counts", "weights": weights}
    axes = pl.imputation_weights(adata)
    assert [ax.get_title() for ax in axes] == ["A", "B"]
    for ax in axes:
        assert [bars.get_label() for bars in ax.containers] == ["network", "ridge", "oracle"]
        assert [bars[1].get_height() for bars in ax.containers] == [0.25, 0.5, 0.125]
        assert [bars[1].get_y() for bars in ax.containers] == [0, 0.25, 0.75]
        assert [label.get_text() for label in ax.get_xticklabels()] == ["< 0.1", "> 0.1"]
    assert [text.get_text() for text in axes[-1].get_legend().get_texts()] == ["oracle", "ridge", "network"]
    assert axes[0].get_ylim() == pytest.approx((0, 1.05 * 0.875))


def test_imputation_scale_layer_and_sparse_layer(adata):
    adata.uns["sagefm"]["sagefm_imputed"] = {"scale": "log1p", "layer": "counts"}
    adata.layers["counts"] = adata.X * 2
    dense = adata.layers["sagefm_imputed"][:, 1].copy()
    adata.layers["sagefm_imputed"] = csr_matrix(np.stack([np.zeros_like(dense), dense, 0 * dense, 0 * dense], axis=1))
    adata.var["sagefm_imputed"] = [False, True, False, False]
    measured, imputed = pl.imputation(adata, "GENE1")
    np.testing.assert_allclose(spots(measured).get_array(), np.log1p(2 * adata.X[:, 1].toarray().ravel()), rtol=1e-6)
    np.testing.assert_allclose(spots(imputed).get_array(), dense, rtol=1e-6)
    assert imputed.child_axes[0].get_ylabel() == "expected log1p of counts"
    with pytest.raises(MissingKeyError, match=r"genes=\['GENE0'\]"):
        pl.imputation(adata, "GENE0")


def test_imputation_of_a_gene_that_was_not_measured(adata):
    axes = pl.imputation(adata, "UNMEASURED")
    assert axes.shape == (1,)
    np.testing.assert_allclose(spots(axes[0]).get_array(), np.log1p(adata.obsm["sagefm_imputed"]["UNMEASURED"]))


def test_backed_and_view(adata, tmp_path):
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    for data in (backed, adata[:]):
        drawn = spots(pl.imputation(data, "GENE0")[0]).get_array()
        np.testing.assert_allclose(drawn, np.log1p(adata.X[:, 0].toarray().ravel()), rtol=1e-6)
        pl.perturbation_heatmap(data)
    backed.file.close()


def test_constant_values_have_limits(adata):
    adata.layers["sagefm_imputed"][:, 0] = 0
    low, high = spots(pl.imputation(adata, "GENE0")[1]).get_clim()
    assert low < high


def test_perturbation(adata):
    ax = pl.perturbation(adata, "CXCL12", "NOTCH2NLA")
    curve = adata.uns["sagefm_perturb"]["curves"].query("source == 'CXCL12' and target == 'NOTCH2NLA'")
    (line,) = [item for item in ax.lines if len(item.get_xdata()) == 5]
    np.testing.assert_allclose(line.get_xydata(), curve[["level", "mean"]])
    (band,) = ax.collections
    corners = band.get_paths()[0].vertices
    assert (corners[:, 1].min(), corners[:, 1].max()) == pytest.approx((curve["low"].min(), curve["high"].max()))
    assert ax.get_title() == "CXCL12 → NOTCH2NLA"
    assert "log1p counts" in ax.get_xlabel()
    assert "expected counts" in ax.get_ylabel()
    (text,) = ax.texts
    assert text.get_text() == "effect = \N{MINUS SIGN}0.25\ncoupling = 0.031 (q = 0.3)"


def test_perturbation_without_q(adata):
    adata.uns["sagefm_perturb"]["scores"]["qval"] = np.nan
    assert pl.perturbation(adata, "VEGFA", "KDR").texts[0].get_text() == "effect = 1.25"


def test_heatmap(adata):
    ax = pl.perturbation_heatmap(adata)
    (mesh,) = [item for item in ax.collections if isinstance(item, QuadMesh)]
    values = mesh.get_array()
    assert [t.get_text() for t in ax.get_yticklabels()] == SOURCES
    assert [t.get_text() for t in ax.get_xticklabels()] == TARGETS
    assert values.mask.tolist() == [[False, False, True], [False] * 3, [False] * 3]
    assert values[2, 0] == 1.25
    low, high = mesh.get_clim()
    assert low == -high
    (stars,) = [item for item in ax.collections if item is not mesh]
    np.testing.assert_allclose(stars.get_offsets(), [[0.5, 0.5], [1.5, 1.5], [2.5, 2.5]])
    assert ax.child_axes[0].get_ylabel() == "effect\n(expected counts)"
    assert ax.get_ylabel() == "source (neighbors)"
    ax = pl.perturbation_heatmap(adata, value="coupling")
    assert ax.child_axes[0].get_ylabel() == "coupling\n(log rate per sd around)"
    np.testing.assert_allclose(ax.collections[0].get_array(), -values / 8)


@pytest.mark.parametrize(("where", "place"), [("center", "center"), ("both", "center and neighbors")])
def test_where_a_source_was_changed(where, place, adata):
    adata.uns["sagefm_perturb"]["params"]["where"] = where
    assert pl.perturbation(adata, "VEGFA", "KDR").get_xlabel().startswith(f"VEGFA ({place})\n")
    assert pl.perturbation_heatmap(adata).get_ylabel() == f"source ({place})"


@pytest.mark.parametrize("effect", [1.25, -1.25])
@pytest.mark.parametrize("falling", [False, True])
def test_the_text_of_a_curve_is_where_it_begins(effect, falling, adata):
    scores, curves = (adata.uns["sagefm_perturb"][key] for key in ("scores", "curves"))
    scores["effect"] = effect
    if falling:
        curves["level"] = 4 - curves["level"]
    ax = pl.perturbation(adata, "VEGFA", "KDR")
    (text,) = ax.texts
    assert text.get_ha() == ("right" if falling else "left")
    assert text.get_va() == ("top" if effect > 0 else "bottom")


def test_heatmap_keeps_the_strongest(adata):
    ax = pl.perturbation_heatmap(adata, n_sources=1, n_targets=2)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["VEGFA"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["KDR", "CXCR4"]
    categorical = adata.uns["sagefm_perturb"]["scores"].astype({"source": "category", "target": "category"})
    adata.uns["sagefm_perturb"]["scores"] = categorical
    ax = pl.perturbation_heatmap(adata, n_sources=2, n_targets=None)
    assert len(ax.get_yticklabels()) == 2
    assert len(ax.get_xticklabels()) == 3


@pytest.mark.parametrize("spot", ["spot60", 60, np.int64(60), -60])
def test_neighborhood(adata, spot):
    # A stored zero is no neighbor.
    adata.obsp["sagefm_connectivities"] = adata.obsp["sagefm_connectivities"] + csr_matrix(
        ([0.0], ([60], [5])), shape=(adata.n_obs,) * 2
    )
    ax = pl.neighborhood(adata, spot)
    tissue, members = [item for item in ax.collections if isinstance(item, EllipseCollection)]
    assert len(tissue.get_offsets()) == adata.n_obs
    xy = adata.obsm["spatial"]
    np.testing.assert_array_equal(members.get_offsets()[-1], xy[60])
    distances = np.linalg.norm(members.get_offsets() - xy[60], axis=1)
    np.testing.assert_allclose(np.sort(distances), np.sort(np.linalg.norm(xy[:, :2] - xy[60], axis=1))[:15], atol=1e-9)
    assert ax.get_title() == "spot60"
    (inset,) = ax.child_axes
    assert inset.get_title() == "14 neighbors"
    assert np.ptp(inset.get_xlim()) < np.ptp(xy[:, 0])


def test_neighborhood_shows_the_library_of_the_spot(adata):
    ax = pl.neighborhood(adata, 100, library_key="library")
    np.testing.assert_array_equal(ax.collections[0].get_offsets(), adata.obsm["spatial"][60:])


def test_history():
    tables = losses([3, 2, 1.5, 1.2], [3, 2.5, np.nan, 2.6])
    for given in (tables, SimpleNamespace(history=tables)):
        ax = pl.history(given)
        train, validation, _, best = ax.lines
        assert train.get_ydata().tolist() == [3, 2, 1.5, 1.2]
        assert validation.get_xdata().tolist() == [0, 1, 3]
        assert (best.get_xdata()[0], best.get_ydata()[0]) == (1, 2.5)
        assert [t.get_text() for t in ax.get_legend().get_texts()] == ["training", "validation", "best: epoch 1"]
        assert ax.get_yscale() == "linear"
    assert pl.history({"train_loss": tables["train_loss"]}).lines[-1].get_xdata()[0] == 3


def without(adata: ad.AnnData, attribute: str, key: str) -> ad.AnnData:
    del getattr(adata, attribute)[key]
    return adata


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda a: pl.embedding(without(a, "obsm", "X_sagefm")), MissingKeyError, r"tl.embed\(adata\)"),
        (lambda a: pl.embedding(a, basis="X_2"), MissingKeyError, "key_added='X_2'"),
        (lambda a: pl.embedding(without(a, "obsm", "spatial")), MissingKeyError, "spatial"),
        (lambda a: pl.embedding(a, library_key="library"), ArgumentError, r"\['A', 'B'\]"),
        (lambda a: pl.embedding(a, library_key="library", library="C"), MissingKeyError, r"\['A', 'B'\]"),
        (lambda a: pl.embedding(a, library="A"), ArgumentError, "library_key"),
        (lambda a: pl.embedding(a, library_key="donor"), MissingKeyError, "donor"),
        (lambda a: pl.embedding(a, components=8), ArgumentError, "0 to 7"),
        (lambda a: pl.embedding(a, components=[]), ArgumentError, "0 to 7"),
        (lambda a: pl.embedding(a, components="umap"), ArgumentError, "0 to 7"),
        (lambda a: pl.embedding(a[:0]), ArgumentError, "without spots"),
        (lambda a: pl.embedding({"a": a}), ArgumentError, "type dict"),
        (lambda a: pl.imputation(without(a, "uns", "sagefm"), "GENE0"), MissingKeyError, "run sagefm.tl.impute"),
        (lambda a: pl.imputation(a, "GENE3"), MissingKeyError, r"genes=\['GENE3'\]"),
        (lambda a: pl.imputation(a, "NOGENE"), MissingKeyError, r"genes=\['NOGENE'\]"),
        (lambda a: pl.imputation(a, "GENE0", layer="raw"), MissingKeyError, "sagefm_imputed"),
        (lambda a: pl.perturbation(without(a, "uns", "sagefm_perturb"), "A", "B"), MissingKeyError, "tl.perturb"),
        (lambda a: pl.perturbation(a, "TGFB1", "NOTCH2NLA"), MissingKeyError, r"sources=\['TGFB1'\]"),
        (lambda a: pl.perturbation_heatmap(a, key="other"), MissingKeyError, "tl.perturb"),
        (lambda a: pl.perturbation_heatmap(a, value="pval"), ArgumentError, "slope"),
        (lambda a: pl.perturbation_heatmap(a, n_sources=0), ArgumentError, "n_sources"),
        (lambda a: pl.neighborhood(a, "nowhere"), MissingKeyError, "spot0"),
        (lambda a: pl.neighborhood(a, 120), ArgumentError, "0 to 119"),
        (lambda a: pl.neighborhood(a, 1.5), ArgumentError, "0 to 119"),
        (lambda a: pl.neighborhood(a, 1, neighbors_key="knn"), MissingKeyError, "key_added='knn'"),
        (lambda a: pl.history(None), MissingKeyError, "train"),
        (lambda a: pl.history({"learning_rate": pd.DataFrame()}), MissingKeyError, "learning_rate"),
    ],
)  # fmt: skip
def test_errors_name_the_repair_and_open_no_figure(adata, call, error, match):
    with pytest.raises(error, match=match):
        call(adata)
    assert plt.get_fignums() == []


def test_duplicate_gene_names(adata):
    adata.var_names = ["GENE0", "GENE0", "GENE2", "GENE3"]
    with pytest.raises(GenesError, match="var_names_make_unique"):
        pl.imputation(adata, "GENE0")


def test_names():
    assert sorted(pl.__all__) == dir(pl)
    assert all(callable(getattr(pl, name)) for name in pl.__all__)
    with pytest.raises(AttributeError):
        pl.nothing  # noqa: B018


def test_import_is_lazy():
    code = (
        "import sys, sagefm.pl; sys.exit(sorted({'matplotlib', 'anndata', 'scanpy', 'torch'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def in_container(adata: ad.AnnData, container: str) -> tuple[object, dict[str, str]]:
    """Return SpatialData whose table has no coordinates, but its circles; or MuData with a second modality."""
    if container == "mudata":
        protein = ad.AnnData(np.ones((adata.n_obs, 2), np.float32), obs=pd.DataFrame(index=adata.obs_names))
        return MuData({"rna": adata, "protein": protein}), {"mod": "rna"}
    circles = gpd.GeoDataFrame(geometry=[Point(xy) for xy in adata.obsm.pop("spatial")])
    circles["radius"] = 27.5
    adata.obs["region"], adata.obs["spot"] = pd.Categorical(["spots"] * adata.n_obs), np.arange(adata.n_obs)
    table = TableModel.parse(adata, region="spots", region_key="region", instance_key="spot")
    shapes = {"spots": ShapesModel.parse(circles)}
    return SpatialData(shapes=shapes, tables={"table": table, "other": table[:5].copy()}), {"table_key": "table"}


@pytest.mark.parametrize("container", ["spatialdata", "mudata"])
@pytest.mark.parametrize("name", ["embedding", "imputation", "perturbation", "heatmap", "neighborhood"])
def test_plots_take_the_containers_that_the_verbs_take(name, container, adata):
    calls = {
        "embedding": lambda data, **where: pl.embedding(data, **where),
        "imputation": lambda data, **where: pl.imputation(data, "GENE0", **where)[0],
        "perturbation": lambda data, **where: pl.perturbation(data, "VEGFA", "KDR", **where),
        "heatmap": lambda data, **where: pl.perturbation_heatmap(data, **where),
        "neighborhood": lambda data, **where: pl.neighborhood(data, 3, **where),
    }
    expected = [item.get_offsets() for item in calls[name](adata).collections]
    data, where = in_container(adata, container)
    drawn = [item.get_offsets() for item in calls[name](data, **where).collections]
    assert len(drawn) == len(expected)
    for offsets, others in zip(drawn, expected, strict=True):
        np.testing.assert_array_equal(offsets, others)
    with pytest.raises(MissingKeyError, match=next(iter(where))):
        calls[name](data)


def test_tables_that_no_verb_takes_can_be_drawn(adata, tmp_path):
    """Nothing is written: a view of a file, and a table without genes, are good enough."""
    adata.write_h5ad(tmp_path / "a.h5ad")
    view = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")[:60]
    assert len(spots(pl.embedding(view)).get_offsets()) == 60
    view.file.close()
    assert len(spots(pl.embedding(adata[:, :0])).get_offsets()) == adata.n_obs


def test_categories_have_a_legend(adata):
    adata.obs["cluster"] = pd.Categorical(np.where(adata.obs["library"] == "A", "a", None), categories=["z", "a"])
    ax = pl.embedding(adata, color="cluster")
    assert ax.get_title() == "cluster"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a"]
    colors = spots(ax).get_facecolors()
    assert len(np.unique(colors[:60], axis=0)) == len(np.unique(colors[60:], axis=0)) == 1
    np.testing.assert_allclose(colors[-1, :3], 0.88)  # no category
    assert pl.embedding(adata, color="cluster", colorbar=False, title="mine").get_legend() is None
    with pytest.raises(MissingKeyError, match=r"color='nothing'.*'library'"):
        pl.embedding(adata, color="nothing")
    with pytest.raises(ArgumentError, match="one of the two"):
        pl.embedding(adata, color="cluster", components=0)


def test_categories_keep_their_color_in_every_library(adata):
    adata.obs["cluster"] = adata.obs["library"].astype(object)
    both = spots(pl.embedding(adata, color="cluster")).get_facecolors()
    shown = spots(pl.embedding(adata, color="cluster", library_key="library", library="B")).get_facecolors()
    np.testing.assert_array_equal(shown, both[60:])


def test_categories_keep_the_colors_of_scanpy(adata):
    adata.obs["cluster"] = pd.Categorical(["a", "b"] * (adata.n_obs // 2))
    adata.uns["cluster_colors"] = ["#ff0000", "#0000ff"]
    colors = spots(pl.embedding(adata, color="cluster")).get_facecolors()
    np.testing.assert_allclose(colors[:2, :3], [[1, 0, 0], [0, 0, 1]])


def test_numbers_of_obs_have_a_color_bar(adata):
    adata.obs["score"] = np.arange(adata.n_obs)
    ax = pl.embedding(adata, color="score", cmap="magma")
    np.testing.assert_array_equal(spots(ax).get_array(), adata.obs["score"])
    assert len(ax.child_axes) == 1
    assert not pl.embedding(adata, color="score", colorbar=False).child_axes


def test_framed_pairs(adata):
    ax = pl.perturbation_heatmap(adata, frame=[("TGFB1", "CXCR4"), ("ABSENT", "KDR")])
    assert [(patch.get_x(), patch.get_y()) for patch in ax.patches] == [(1, 0)]
