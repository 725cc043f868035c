"""Input that cannot be used: a clear error of the right type that names the repair, and the object as it was."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import squidpy as sq
from scipy import sparse

import sagefm
from sagefm.errors import ArgumentError, CoordinatesError, CountsError, MissingKeyError, NeighborsError
from sagefm.model import SAGEFM
from tests.repairs import repaired


def _embed(adata, model, **kwargs):
    sagefm.tl.embed(adata, model, **kwargs)


def _impute(adata, model, **kwargs):
    sagefm.tl.impute(adata, model, progress=False, **kwargs)


def _perturb(adata, model, **kwargs):
    arguments = {"sources": ["DBI"], "targets": ["MVP"], "progress": False}
    sagefm.tl.perturb(adata, model, **{**arguments, **kwargs})


def _setup(adata, model, **kwargs):
    SAGEFM.setup_anndata(adata, **kwargs)


def _latent(adata, model, **kwargs):
    SAGEFM.load(model.name).get_latent_representation(adata)


VERBS = {"embed": _embed, "impute": _impute, "perturb": _perturb}
READERS = {**VERBS, "setup": _setup}
each_verb = pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
each_reader = pytest.mark.parametrize("verb", READERS.values(), ids=READERS)
each_reader_and_method = pytest.mark.parametrize("verb", [*READERS.values(), _latent], ids=[*READERS, "latent"])


# Coordinates


@each_reader_and_method
def test_no_coordinates(verb, section, default, rejects):
    section.obsm["X_pca"] = np.zeros((section.n_obs, 2))
    del section.obsm["spatial"]
    rejects(
        MissingKeyError,
        section,
        lambda: verb(section, default),
        "spatial_key='spatial'",
        "X_pca",
        "squidpy.read.visium",
    )


def test_no_coordinates_for_neighbors(section, rejects):
    rejects(MissingKeyError, section, lambda: sagefm.pp.spatial_neighbors(section, spatial_key="xy"), "'xy'", "spatial")


@each_reader
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_coordinates_not_finite(verb, value, section, default, rejects):
    section.obsm["spatial"][[7, 9], 1] = value
    words = ("NaN or infinite", "2 of 400 spots", section.obs_names[7], "np.isfinite")
    message = rejects(CoordinatesError, section, lambda: verb(section, default), *words)
    verb(repaired(section, message), default)


@pytest.mark.parametrize(
    ("coordinates", "word"),
    [
        (np.zeros((400, 3)), "(400, 3)"),
        (np.zeros((400, 1)), "(400, 1)"),
        (np.full((400, 2), "left"), "not numeric"),
        (np.full((400, 2), 1j), "not numeric"),
        (np.arange(800).reshape(400, 2) * 1e300, "no distance on a slide"),
        (np.arange(800).reshape(400, 2) * 1e-300, "no distance on a slide"),
    ],
)
def test_coordinates_of_another_kind(coordinates, word, section, default, rejects):
    section.obsm["spatial"] = coordinates
    rejects(CoordinatesError, section, lambda: sagefm.tl.embed(section, default), word)


@pytest.mark.parametrize("n_shared", [1, 14])
def test_duplicate_coordinates_warn_and_are_deterministic(n_shared, section, default):
    section.obsm["spatial"][100 : 101 + n_shared] = section.obsm["spatial"][100]
    runs = []
    for adata in (section.copy(), section.copy()):
        with pytest.warns(UserWarning, match=f"{n_shared} spots have the coordinates of another spot.*library_key"):
            sagefm.tl.embed(adata, default)
        runs.append(adata)
    first, second = runs
    assert (np.diff(first.obsp["sagefm_connectivities"].indptr) == 14).all()
    assert not first.obsp["sagefm_connectivities"].diagonal().any()
    assert (first.obsp["sagefm_connectivities"] != second.obsp["sagefm_connectivities"]).nnz == 0
    np.testing.assert_array_equal(first.obsm["X_sagefm"], second.obsm["X_sagefm"])
    assert np.isfinite(first.obsm["X_sagefm"]).all()


@each_reader
def test_fewer_than_15_spots(verb, section, default, rejects):
    small = section[:14].copy()
    rejects(CoordinatesError, small, lambda: verb(small, default), "15 spots", "(14)", "n_spots=14")


@each_reader
def test_fewer_than_15_spots_in_a_library(verb, section, default, rejects):
    section.obs["slide"] = np.where(np.arange(400) < 9, "tiny", "large")
    words = ("tiny (9)", "n_spots=9, library_key='slide'", "out these libraries")
    message = rejects(CoordinatesError, section, lambda: verb(section, default, library_key="slide"), *words)
    kept = repaired(section, message)
    assert kept.n_obs == 391
    verb(kept, default, library_key="slide")


@pytest.mark.parametrize(("n_tiny", "is_smaller"), [(1, False), (2, True)])
def test_repairs_of_a_tiny_library_do_not_repeat_the_error(n_tiny, is_smaller, section, rejects):
    section.obs["slide"] = np.where(np.arange(400) < n_tiny, "tiny", "large")
    call = lambda: sagefm.pp.spatial_neighbors(section, library_key="slide")
    message = rejects(CoordinatesError, section, call, f"tiny ({n_tiny})", "out these libraries")
    assert ("n_spots=2" in message) == is_smaller
    sagefm.pp.spatial_neighbors(repaired(section, message), library_key="slide")


def test_graph_by_library_that_the_error_proposes(sections, default, rejects):
    sections.obsm["spatial"] = sections.obsm["spatial"] + np.random.default_rng(0).normal(size=(300, 2))
    sq.gr.spatial_neighbors_knn(sections, n_neighs=14, key_added="mine")
    call = lambda: sagefm.tl.embed(sections, default, library_key="library", neighbors_key="mine")
    again = repaired(sections, rejects(NeighborsError, sections, call, "key_added='mine'"))
    sagefm.tl.embed(again, default, library_key="library", neighbors_key="mine")


def test_exactly_15_spots(section, default, run_verbs):
    small = section[:15].copy()
    result = run_verbs(small, default)
    assert np.isfinite(result.embedding).all()
    assert np.isfinite(result.imputed).all()


def test_a_smaller_neighborhood_that_the_error_proposes(section, default):
    small = section[:9].copy()
    sagefm.pp.spatial_neighbors(small, n_spots=9)
    sagefm.tl.embed(small, default)
    assert np.isfinite(small.obsm["X_sagefm"]).all()


@pytest.mark.parametrize("n_spots", [1, 0, -3, 2.5, "15", True])
def test_n_spots(n_spots, section, rejects):
    call = lambda: sagefm.pp.spatial_neighbors(section, n_spots=n_spots)
    rejects(ArgumentError, section, call, f"n_spots={n_spots!r}", "at least 2")


# Counts


def _damaged(section, damage):
    dense = section.X.toarray()
    if damage == "negative":
        dense[399, 299] = -1
    elif damage == "fractional":
        dense[399, 299] = 0.5
    elif damage == "NaN":
        dense[399, 299] = np.nan
    elif damage == "infinite":
        dense[399, 299] = np.inf
    elif damage == "logged":
        dense = np.log1p(dense)
    elif damage == "logged at the end":
        # Thousands of stored values are whole before the first that is not.
        dense[390:] = np.log1p(dense[390:])
    elif damage == "normalized":
        dense = dense / dense.sum(axis=1, keepdims=True) * 1e4
    else:
        dense = (dense - dense.mean(axis=0)) / (dense.std(axis=0) + 1)
    return dense


DAMAGES = {
    "negative": "negative",
    "fractional": "fractional",
    "NaN": "NaN",
    "infinite": "infinite",
    "logged": "fractional",
    "logged at the end": "log-transformed",
    "normalized": "normalized",
    "scaled": "fractional",
}


@pytest.mark.parametrize("make", [sparse.csr_matrix, sparse.csc_matrix, np.asarray], ids=["csr", "csc", "dense"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_no_raw_counts(damage, make, section, default, rejects):
    section.X = make(_damaged(section, damage))
    if damage == "logged at the end":
        stored = sparse.csr_matrix(section.X).data[:10_000]
        np.testing.assert_array_equal(stored, np.rint(stored))
    rejects(CountsError, section, lambda: sagefm.tl.embed(section, default), "adata.X", DAMAGES[damage], "layer=")


@each_reader
@pytest.mark.parametrize("damage", ["negative", "NaN", "logged at the end"])
def test_no_raw_counts_in_a_layer(verb, damage, section, default, rejects):
    section.layers["scaled"] = _damaged(section, damage)
    call = lambda: verb(section, default, layer="scaled")
    rejects(CountsError, section, call, "adata.layers['scaled']", DAMAGES[damage], "layer=")


@each_reader
def test_negative_whole_numbers(verb, section, default, rejects):
    section.X = section.X.astype(np.int32)
    section.X.data[-1] = -4
    rejects(CountsError, section, lambda: verb(section, default), "negative", "-4")


@pytest.mark.parametrize("make", [sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("indices", lambda x: x - 10**6),
        ("indices", lambda x: x + 10**6),
        ("indptr", lambda x: x[::-1].copy()),
        ("data", lambda x: x[:7]),
    ],
)
def test_matrices_of_damaged_files(part, change, make, section, default, rejects):
    """Products of such a matrix read and write outside of it."""
    section.X = make(section.X)
    setattr(section.X, part, change(getattr(section.X, part)))
    rejects(CountsError, section, lambda: sagefm.tl.embed(section, default), "damaged", "download the file again")


@each_reader
@pytest.mark.parametrize("kind", ["complex64", "U1", "datetime64[s]"])
def test_values_that_are_no_numbers(verb, kind, section, default, rejects):
    section.layers["odd"] = section.X.toarray().astype(kind)
    rejects(CountsError, section, lambda: verb(section, default, layer="odd"), "layers['odd']", "values of type")


@each_reader
def test_no_x(verb, section, default, rejects):
    section.layers["counts"] = section.X
    section.X = None
    rejects(MissingKeyError, section, lambda: verb(section, default), "adata.X is empty", "layer=")


# Keys


@each_reader
@pytest.mark.parametrize(
    ("argument", "error", "words"),
    [
        ("layer", MissingKeyError, ("layer='nowhere'", "counts")),
        ("gene_key", MissingKeyError, ("gene_key='nowhere'", "symbol")),
        ("library_key", MissingKeyError, ("library_key='nowhere'", "domain")),
        ("spatial_key", MissingKeyError, ("spatial_key='nowhere'", "spatial")),
        ("neighbors_key", NeighborsError, ("nowhere_connectivities", "own_connectivities", "spatial_neighbors")),
    ],
)
def test_key_that_does_not_exist(verb, argument, error, words, section, default, rejects):
    section.layers["counts"] = section.X.copy()
    section.var["symbol"] = section.var_names
    section.obsp["own_connectivities"] = sparse.eye_array(section.n_obs, format="csr")
    rejects(error, section, lambda: verb(section, default, **{argument: "nowhere"}), *words)


@each_reader
@pytest.mark.parametrize("categorical", [True, False])
def test_missing_values_in_the_library_column(verb, categorical, section, default, rejects):
    column = pd.Series(np.where(np.arange(400) < 200, "a", "b"), index=section.obs_names, dtype=object)
    column.iloc[[3, 4, 5]] = None
    section.obs["slide"] = column.astype("category") if categorical else column
    words = ("adata.obs['slide']", "3 of 400", "notna()")
    rejects(CoordinatesError, section, lambda: verb(section, default, library_key="slide"), *words)


def test_lists_in_the_library_column(section, default, rejects):
    section.obs["slide"] = [["a"]] * 400
    call = lambda: sagefm.tl.embed(section, default, library_key="slide")
    sagefm.tl.embed(repaired(section, rejects(CoordinatesError, section, call, "['a']")), default, library_key="slide")


def test_a_column_that_is_there_twice(sections, default, rejects):
    sections.obs = pd.concat([sections.obs, sections.obs[["library", "domain"]]], axis=1)
    call = lambda: sagefm.tl.embed(sections, default, library_key="library")
    again = repaired(sections, rejects(ArgumentError, sections, call, "several columns"))
    sagefm.tl.embed(again, default, library_key="library")


def test_a_graph_of_words(section, default, rejects):
    section.obsp["mine_connectivities"] = np.full((400, 400), "a")
    call = lambda: sagefm.tl.embed(section, default, neighbors_key="mine")
    rejects(NeighborsError, section, call, "cannot be read")


@pytest.mark.parametrize("value", ["text", None, 3, ["a"], {"params": 3, "X_sagefm": "a"}])
def test_entries_of_other_programs_under_our_names(value, section, default):
    expected = sagefm.tl.embed(section, default, copy=True).obsm["X_sagefm"]
    for key in ("sagefm", "sagefm_neighbors", "spatialdata_attrs", "sagefm_domain"):
        section.uns[key] = value
    sagefm.tl.embed(section, default)
    np.testing.assert_array_equal(section.obsm["X_sagefm"], expected)
    sagefm.tl.domains(section, 2)
    sagefm.tl.pool(section, library_key="domain")


@pytest.mark.parametrize("value", [np.inf, np.nan, "a", pd.NA])
def test_array_positions_that_are_none(value, section, default):
    section.obs["array_row"] = pd.array([value] * 400, dtype="Int64") if value is pd.NA else value
    sagefm.tl.embed(section, default)
    del section.obsm["spatial"]
    with pytest.raises(MissingKeyError):
        sagefm.tl.embed(section, default)


def test_graph_that_joins_libraries(sections, default, rejects):
    rng = np.random.default_rng(0)
    sections.obsm["spatial"] = sections.obsm["spatial"] + rng.normal(size=(300, 2))
    sq.gr.spatial_neighbors_knn(sections, n_neighs=14, key_added="spatial")
    call = lambda: sagefm.tl.embed(sections, default, library_key="library", neighbors_key="spatial")
    rejects(NeighborsError, sections, call, "neighbors_key='spatial'", "library_key='library'", "spatial_neighbors_knn")


# Empty spots and genes


def test_empty_spots_warn_and_give_finite_results(section, checkpoint, run_verbs):
    counts = section.X.tolil()
    counts[[5, 50]] = 0
    section.X = counts.tocsr()
    with pytest.warns(UserWarning, match="2 of 400 spots have no counts.*filter_cells"):
        result = run_verbs(section, checkpoint)
    assert np.isfinite(result.embedding).all()
    assert np.isfinite(result.imputed).all()
    assert np.isfinite(result.scores[["effect", "slope", "rho", "coupling", "pval", "qval"]]).all(axis=None)
    assert np.isfinite(result.per_spot).all(axis=None)


def test_all_spots_empty(section, checkpoint):
    section.X = sparse.csr_matrix(section.shape, dtype=np.float32)
    with pytest.warns(UserWarning, match="400 of 400 spots have no counts"):
        sagefm.tl.embed(section, checkpoint)
    with pytest.warns(UserWarning, match="400 of 400 spots have no counts"):
        sagefm.tl.impute(section, checkpoint, progress=False)
    assert np.isfinite(section.obsm["X_sagefm"]).all()
    assert np.isfinite(section.layers["sagefm_imputed"]).all()


def test_all_zero_gene(section, checkpoint, pairs):
    source, target = pairs.iloc[0]
    counts = section.X.tolil()
    counts[:, [section.var_names.get_loc(source), section.var_names.get_loc(pairs["target"][1])]] = 0
    section.X = counts.tocsr()
    sagefm.tl.embed(section, checkpoint)
    sagefm.tl.impute(section, checkpoint, progress=False)
    sagefm.tl.perturb(section, checkpoint, pairs=pairs, progress=False)
    assert np.isfinite(section.obsm["X_sagefm"]).all()
    assert np.isfinite(section.layers["sagefm_imputed"]).all()
    scores = section.uns["sagefm_perturb"]["scores"].set_index(["source", "target"])
    # A source that is zero everywhere has one level.
    assert scores.loc[(source, target), "effect"] == 0
    assert np.isfinite(scores["effect"]).all()
    # A gene without counts has no coupling.
    assert scores["coupling"].isna().tolist() == scores["qval"].isna().tolist() == [True, True, False, False]


def test_training_with_empty_spots_and_genes(section):
    counts = section.X.tolil()
    counts[:20] = 0
    counts[:, :20] = 0
    section.X = counts.tocsr()
    SAGEFM.setup_anndata(section)
    model = SAGEFM(section, hidden=(8, 4))
    with pytest.warns(UserWarning, match="20 of 400 spots have no counts"):
        model.train(max_epochs=1, accelerator="cpu")
    assert np.isfinite(model.history["train_loss"]).all(axis=None)
    assert all(parameter.isfinite().all() for parameter in model.module.parameters())


# Arguments


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "10", True])
@each_verb
def test_batch_size(verb, batch_size, section, default, rejects):
    call = lambda: verb(section, default, batch_size=batch_size)
    rejects(ArgumentError, section, call, f"batch_size={batch_size!r}", "at least 1")


@pytest.mark.parametrize("device", ["cuda:99", "nowhere", "mps", "meta", "", 1.5, None])
@each_verb
def test_device_that_is_not_there(verb, device, section, default, rejects):
    rejects(ArgumentError, section, lambda: verb(section, default, device=device), f"device={device!r}", "'cpu'")


@pytest.mark.parametrize("mask", ["centre", "", None, 0.3, ["center"]])
def test_mask(mask, section, default, rejects):
    call = lambda: sagefm.tl.impute(section, default, mask=mask)
    rejects(ArgumentError, section, call, f"mask={mask!r}", "'center'", "'neighborhood'")


@pytest.mark.parametrize("n_folds", [1, 0, 2.5, "4", True])
def test_n_folds(n_folds, section, default, rejects):
    call = lambda: sagefm.tl.impute(section, default, n_folds=n_folds)
    rejects(ArgumentError, section, call, f"n_folds={n_folds!r}", "at least 2")


@pytest.mark.parametrize("value", [1, 0, -5, 5.0, "5", True, None, [0, 1], "knock-out"])
def test_levels(value, section, default, rejects):
    rejects(
        ArgumentError, section, lambda: _perturb(section, default, levels=value), f"levels={value!r}", "whole number"
    )


@pytest.mark.parametrize(
    ("scale", "value"),
    [("quantile", value) for value in ([0.1], [-0.1, 1], [0, 1.5], [0, np.nan], 0.5, "0.1,0.9", [[0, 1]], None)]
    + [("fold", value) for value in (5, [1], [1, -1], [1, np.inf], "double", ["a", "b"], True)],
)
def test_levels_of_a_scale(scale, value, section, default, rejects):
    call = lambda: _perturb(section, default, levels=value, scale=scale)
    rejects(ArgumentError, section, call, f"levels={value!r}", f"scale={scale!r}", "two or more")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"where": "centre"}, ("where='centre'", "'neighborhood', 'center' or 'both'")),
        ({"scale": "log"}, ("scale='log'", "'range', 'quantile' or 'fold'")),
    ],
)
def test_where_and_scale(arguments, words, section, default, rejects):
    rejects(ArgumentError, section, lambda: _perturb(section, default, **arguments), *words)


def test_groupby_that_is_no_column(section, default, rejects):
    call = lambda: _perturb(section, default, groupby="cluster")
    rejects(MissingKeyError, section, call, "groupby='cluster'", "'domain'")


@pytest.mark.parametrize("rng", [-1, 0.5, "seed", None])
def test_rng(rng, section, default, rejects):
    rejects(ArgumentError, section, lambda: _impute(section, default, rng=rng), f"rng={rng!r}")


@each_verb
@pytest.mark.parametrize("model", [None, 3, {"genes": []}])
def test_model_of_another_type(verb, model, section, rejects):
    if verb is _impute and model is None:
        pytest.skip("the section's predictors are used")
    rejects(ArgumentError, section, lambda: verb(section, model), type(model).__name__, "SAGEFM")


@each_reader
@pytest.mark.parametrize(("rows", "columns", "word"), [(0, 300, "0 spots"), (400, 0, "0 genes")])
def test_no_spots_or_no_genes(verb, rows, columns, word, section, default, rejects):
    empty = section[:rows, :columns].copy()
    rejects(ArgumentError, empty, lambda: verb(empty, default), word)


@each_verb
def test_an_object_of_another_type(verb, section, default):
    with pytest.raises(ArgumentError, match=r"DataFrame; expected AnnData, SpatialData or MuData"):
        verb(section.to_df(), default)


def test_messages_hold_nothing_that_a_terminal_obeys(section, default):
    section.obs["slide"] = "\x1b[31mred\ud800"
    section.obs["slide"] = section.obs["slide"].where(np.arange(400) > 4, "few\x1b[31m")
    with pytest.raises(CoordinatesError) as raised:
        sagefm.tl.embed(section, default, library_key="slide")
    texts = [str(raised.value), str(sagefm.pp.check(section, default, library_key="slide", verbose=False))]
    for text in texts:
        assert "few?[31m" in text
        assert all(character.isprintable() or character == "\n" for character in text)
