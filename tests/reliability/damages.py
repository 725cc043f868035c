"""What can be wrong with a table: functions that each damage one thing in an AnnData, by what they touch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
from scipy import sparse

import sagefm

#: What a verb that reads the damaged part must do: give the same result as without the damage; give a result or an
#: error; or give an error.
Verdict = Literal["same", "either", "error"]
Rng = np.random.Generator


class Damage(NamedTuple):
    """One thing that is wrong: what it touches, what must come of it, and the function, which works in place.

    No two damages of a case touch the same.
    """

    touches: str
    name: str
    verdict: Verdict
    apply: Callable[[ad.AnnData, Rng], None]


def _values(change: Callable[[np.ndarray, Rng], Any]) -> Callable[[ad.AnnData, Rng], None]:
    """Return a function that changes counts, given as a dense matrix of float64."""

    def apply(adata: ad.AnnData, rng: Rng) -> None:
        dense = adata.X.toarray().astype(np.float64)
        changed = change(dense, rng)
        adata.X = sparse.csr_matrix(dense if changed is None else changed)

    return apply


def _put(value: float) -> Callable[[ad.AnnData, Rng], None]:
    """Return a function that puts a value in the place of one count."""

    def change(dense: np.ndarray, rng: Rng) -> None:
        dense[rng.integers(dense.shape[0]), rng.integers(dense.shape[1])] = value

    return _values(change)


def _zero(axis: int, share: float) -> Callable[[ad.AnnData, Rng], None]:
    def change(dense: np.ndarray, rng: Rng) -> None:
        chosen = rng.random(dense.shape[axis]) < share
        dense[chosen if axis == 0 else (slice(None), chosen)] = 0

    return _values(change)


VALUES = [
    Damage("values", name, verdict, apply)  # type: ignore[arg-type]
    for name, verdict, apply in (
        ("a NaN", "error", _put(np.nan)),
        ("an infinity", "error", _put(np.inf)),
        ("a negative infinity", "error", _put(-np.inf)),
        ("a negative count", "error", _put(-1)),
        ("a fraction", "error", _put(0.5)),
        ("logarithms", "error", _values(lambda x, _: np.log1p(x))),
        ("normalized", "error", _values(lambda x, _: x / np.maximum(x.sum(1, keepdims=True), 1) * 1e4)),
        ("z-scores", "error", _values(lambda x, _: (x - x.mean(0)) / (x.std(0) + 0.1))),
        ("rounded CPM", "either", _values(lambda x, _: np.rint(x / np.maximum(x.sum(1, keepdims=True), 1) * 1e6))),
        ("0 and 1", "either", _values(lambda x, _: x > 0)),
        ("spots without counts", "either", _zero(0, 0.2)),
        ("genes without counts", "either", _zero(1, 0.3)),
        ("nothing counted", "either", _values(lambda x, _: x * 0)),
        ("all counts the same", "either", _values(lambda x, _: x * 0 + 3)),
        ("all spots the same", "either", _values(lambda x, _: np.repeat(x[:1], len(x), axis=0))),
        ("one gene counted", "either", _values(lambda x, _: x * (np.arange(x.shape[1]) == 3))),
        ("one spot counted", "either", _values(lambda x, _: x * (np.arange(len(x)) == 3)[:, None])),
        ("a wild count", "either", _put(1e9)),
        ("a count above float32", "either", _put(2.0**60)),
        ("65,535 for -1", "either", _put(65_535)),
        ("shallow", "either", _values(lambda x, rng: rng.binomial(x.astype(int), 0.01))),
        ("deep", "either", _values(lambda x, _: x * 1000)),
    )
]


def _csr(adata: ad.AnnData) -> sparse.csr_matrix:
    return sparse.csr_matrix(adata.X)


def _unsorted(x: sparse.csr_matrix) -> sparse.csr_matrix:
    order = np.concatenate([np.arange(a, b)[::-1] for a, b in zip(x.indptr[:-1], x.indptr[1:], strict=True)])
    return sparse.csr_matrix((x.data[order], x.indices[order], x.indptr), shape=x.shape)


def _read_only(x: sparse.csr_matrix) -> sparse.csr_matrix:
    for part in (x.data, x.indices, x.indptr):
        part.flags.writeable = False
    return x


def _with_zeros(x: sparse.csr_matrix) -> sparse.csr_matrix:
    stored = x.tocoo()
    rows, columns = (np.concatenate([index, [0, 1]]) for index in (stored.row, stored.col))
    free = sparse.csr_matrix((np.concatenate([stored.data, [0, 0]]), (rows, columns)), shape=x.shape)
    return free


def _stored_as(change: Callable[[sparse.csr_matrix], Any]) -> Callable[[ad.AnnData, Rng], None]:
    def apply(adata: ad.AnnData, _: Rng) -> None:
        adata.X = change(_csr(adata))

    return apply


STORAGE = [
    Damage("storage", name, verdict, _stored_as(change))  # type: ignore[arg-type]
    for name, verdict, change in (
        ("csc", "same", sparse.csc_matrix),
        ("csr array", "same", sparse.csr_array),
        ("dense", "same", lambda x: x.toarray()),
        ("dense, by columns", "same", lambda x: np.asfortranarray(x.toarray())),
        ("dense, read-only", "same", lambda x: np.frombuffer(x.toarray().tobytes(), x.dtype).reshape(x.shape)),
        ("read-only", "same", _read_only),
        ("unsorted", "same", _unsorted),
        ("zeros stored", "same", _with_zeros),
        (
            "64-bit indices",
            "same",
            lambda x: sparse.csr_matrix((x.data, x.indices.astype(np.int64), x.indptr), x.shape),
        ),
        ("int32", "same", lambda x: x.astype(np.int32)),
        ("int64", "same", lambda x: x.astype(np.int64)),
        ("uint16", "same", lambda x: x.astype(np.uint16)),
        ("float64", "same", lambda x: x.astype(np.float64)),
        ("uint8", "either", lambda x: x.astype(np.uint8)),
        ("int8", "either", lambda x: x.astype(np.int8)),
        ("bool", "either", lambda x: x.astype(bool)),
        ("float16", "either", lambda x: x.toarray().astype(np.float16)),
        ("complex", "either", lambda x: x.toarray().astype(np.complex128)),
        ("big-endian", "either", lambda x: x.toarray().astype(">f4")),
        ("objects", "either", lambda x: x.toarray().astype(object)),
        ("text", "error", lambda x: x.toarray().astype(str)),
        ("masked", "either", lambda x: np.ma.masked_equal(x.toarray(), 0)),
        ("Dask", "same", lambda x: da.from_array(x.toarray(), chunks=(17, -1))),
        ("Dask, by columns", "same", lambda x: da.from_array(x.toarray(), chunks=(-1, 50))),
        ("Dask, sparse", "same", lambda x: da.from_array(x, chunks=(20, -1))),
    )
]


def _only_layer(adata: ad.AnnData, _: Rng) -> None:
    adata.layers["counts"] = adata.X
    adata.X = None


def _only_raw(adata: ad.AnnData, _: Rng) -> None:
    adata.raw = adata.copy()
    adata.X = _csr(adata).log1p()


def _names(axis: str, change: Callable[[pd.Index, Rng], Any]) -> Callable[[ad.AnnData, Rng], None]:
    def apply(adata: ad.AnnData, rng: Rng) -> None:
        setattr(adata, axis, change(getattr(adata, axis), rng))

    return apply


def _some(names: pd.Index, value: Any, share: float = 0.2) -> list[Any]:
    return [value if i < share * len(names) else name for i, name in enumerate(names)]


#: Ways in which names of spots or genes may be odd, whichever they are.
_ODD_NAMES: list[tuple[str, Callable[[pd.Index, Rng], Any]]] = [
    ("twice", lambda names, _: [*names[1:2], *names[1:]]),
    ("all the same", lambda names, _: ["a"] * len(names)),
    ("empty", lambda names, _: _some(names, "", 0.01)),
    ("numbers", lambda names, _: np.arange(len(names))),
    ("numbers as text", lambda names, _: np.arange(len(names)).astype(str)),
    ("fractions", lambda names, _: np.arange(len(names)) / 3),
    ("missing", lambda names, _: _some(names, None, 0.01)),
    ("NaN", lambda names, _: _some(names, np.nan, 0.01)),
    ("categories", lambda names, _: pd.CategoricalIndex(names)),
    ("control characters", lambda names, _: [f"{name}\x1b[31m\x00" for name in names]),
    ("half a surrogate pair", lambda names, _: [f"{name}\ud800" for name in names]),
    ("long", lambda names, _: [f"{name}{'x' * 300}" for name in names]),
    ("other letters", lambda names, _: [f"{name}-é中" for name in names]),
    ("spaces", lambda names, _: [f" {name} " for name in names]),
    ("mixed types", lambda names, _: [i if i % 2 else name for i, name in enumerate(names)]),
    ("tuples", lambda names, _: pd.Index([(name, i) for i, name in enumerate(names)], tupleize_cols=False)),
    ("bytes", lambda names, _: pd.Index([str(name).encode() for name in names])),
    ("dates", lambda names, _: pd.date_range("2020-01-01", periods=len(names))),
]
SPOT_NAMES = [
    *(Damage("spot names", f"spots: {name}", "either", _names("obs_names", change)) for name, change in _ODD_NAMES),
    Damage("spot names", "spots: nullable", "same", _names("obs_names", lambda names, _: names.astype("string"))),
]


def _ensembl(adata: ad.AnnData, _: Rng) -> None:
    adata.var_names = [f"ENSG{i:011}.{i % 9}" for i in range(adata.n_vars)]


def _feature_types(adata: ad.AnnData, _: Rng) -> None:
    adata.var["feature_types"] = np.where(np.arange(adata.n_vars) % 2, "Gene Expression", "Antibody Capture")


GENE_NAMES = [
    *(Damage("gene names", f"genes: {name}", "either", _names("var_names", change)) for name, change in _ODD_NAMES),
    Damage("gene names", "genes: nullable", "same", _names("var_names", lambda names, _: names.astype("string"))),
    Damage("gene names", "genes: Ensembl, with versions", "either", _ensembl),
    Damage("gene names", "genes: lower case", "either", _names("var_names", lambda names, _: names.str.lower())),
    Damage("gene names", "genes: genome prefix", "either", _names("var_names", lambda names, _: "GRCh38_" + names)),
    Damage("gene names", "genes: numbered", "either", _names("var_names", lambda names, _: names + "-1")),
    Damage("gene names", "genes: Excel's dates", "either", _names("var_names", lambda names, _: _some(names, "9-Mar"))),
    Damage("gene names", "genes: unknown", "either", _names("var_names", lambda names, _: "unknown" + names)),
    Damage("gene names", "genes: feature types", "either", _feature_types),
]


def _places(change: Callable[[np.ndarray, Rng], Any]) -> Callable[[ad.AnnData, Rng], None]:
    def apply(adata: ad.AnnData, rng: Rng) -> None:
        places = np.array(adata.obsm["spatial"], dtype=np.float64)
        changed = change(places, rng)
        adata.obsm["spatial"] = places if changed is None else changed

    return apply


def _place(value: Any) -> Callable[[ad.AnnData, Rng], None]:
    def change(places: np.ndarray, rng: Rng) -> None:
        places[rng.integers(len(places))] = value

    return _places(change)


def _no_places(adata: ad.AnnData, _: Rng) -> None:
    del adata.obsm["spatial"]


def _frame(adata: ad.AnnData, _: Rng) -> None:
    adata.obsm["spatial"] = pd.DataFrame(adata.obsm["spatial"], index=adata.obs_names, columns=["x", "y"])


PLACES = [
    Damage("places", name, verdict, apply)  # type: ignore[arg-type]
    for name, verdict, apply in (
        ("no places", "error", _no_places),
        ("a place of NaN", "error", _place(np.nan)),
        ("a place of infinity", "error", _place(-np.inf)),
        ("places of NaN", "error", _places(lambda xy, _: xy * np.nan)),
        ("three dimensions", "error", _places(lambda xy, _: np.column_stack([xy, xy[:, 0]]))),
        ("one dimension", "error", _places(lambda xy, _: xy[:, :1])),
        ("no dimension", "error", _places(lambda xy, _: xy[:, :0])),
        ("a cube of places", "error", _places(lambda xy, _: np.stack([xy, xy], axis=2))),
        ("words for places", "error", _places(lambda xy, _: np.full(xy.shape, "left"))),
        ("all at one place", "error", _places(lambda xy, _: xy * 0)),
        ("numbers as text for places", "either", _places(lambda xy, _: xy.astype(str))),
        ("whole places", "either", _places(lambda xy, _: np.rint(xy).astype(np.int64))),
        ("places of float32", "either", _places(lambda xy, _: xy.astype(np.float32))),
        ("places as objects", "either", _places(lambda xy, _: xy.astype(object))),
        ("complex places", "either", _places(lambda xy, _: xy + 1j)),
        ("places of bool", "either", _places(lambda xy, _: xy > np.median(xy))),
        ("dates for places", "either", _places(lambda xy, _: xy.astype("datetime64[s]"))),
        ("sparse places", "either", _places(lambda xy, _: sparse.csr_matrix(xy))),
        ("masked places", "either", _places(lambda xy, _: np.ma.masked_less(xy, np.median(xy)))),
        ("places as a table", "same", _frame),
        ("places by columns", "same", _places(lambda xy, _: np.asfortranarray(xy))),
        ("places, read-only", "same", _places(lambda xy, _: np.frombuffer(xy.tobytes()).reshape(xy.shape))),
        ("huge places", "either", _places(lambda xy, _: xy * 1e300)),
        ("tiny places", "either", _places(lambda xy, _: xy * 1e-300)),
        ("far from the origin", "either", _places(lambda xy, _: xy + 1e17)),
        ("places below zero", "either", _places(lambda xy, _: -xy)),
        ("on a line", "either", _places(lambda xy, _: xy * [1, 0])),
        ("two at each place", "either", _places(lambda xy, _: np.repeat(xy[::2], 2, axis=0)[: len(xy)])),
        ("five at each place", "either", _places(lambda xy, _: np.repeat(xy[::5], 5, axis=0)[: len(xy)])),
        ("a far spot", "either", _place(1e8)),
        ("a placeholder", "either", _place(-1)),
        ("random places", "either", _places(lambda xy, rng: rng.random(xy.shape))),
        (
            "array indices",
            "either",
            _places(lambda xy, _: np.array([(i // 8, 2 * (i % 8) + i // 8 % 2) for i in range(len(xy))])),
        ),
    )
]


def _library(change: Callable[[pd.Series, Rng], Any]) -> Callable[[ad.AnnData, Rng], None]:
    def apply(adata: ad.AnnData, rng: Rng) -> None:
        column = adata.obs["library"].astype(str).astype(object)
        adata.obs["library"] = change(column, rng)

    return apply


def _first(column: pd.Series, value: Any, n: int = 1) -> pd.Series:
    column.iloc[:n] = value
    return column


def _two_columns(adata: ad.AnnData, _: Rng) -> None:
    adata.obs = pd.concat([adata.obs, adata.obs[["library"]]], axis=1)


def _no_library(adata: ad.AnnData, _: Rng) -> None:
    del adata.obs["library"]


#: Read where a verb is called with ``library_key="library"``.
LIBRARY = [
    Damage("library", name, verdict, apply)  # type: ignore[arg-type]
    for name, verdict, apply in (
        ("no library column", "error", _no_library),
        ("a library is missing", "error", _library(lambda column, _: _first(column, None, 3))),
        ("a library is NaN", "error", _library(lambda column, _: _first(column, np.nan))),
        ("all libraries are missing", "error", _library(lambda column, _: column.where(column.isna()))),
        ("a library of one spot", "either", _library(lambda column, _: _first(column, "alone"))),
        ("a library of 14 spots", "either", _library(lambda column, _: _first(column, "few", 14))),
        ("a library a spot", "either", _library(lambda column, _: np.arange(len(column)).astype(str))),
        ("numbers for libraries", "either", _library(lambda column, _: pd.factorize(column)[0])),
        ("fractions for libraries", "either", _library(lambda column, _: pd.factorize(column)[0] + 0.5)),
        ("bool for libraries", "either", _library(lambda column, _: pd.factorize(column)[0] > 0)),
        ("dates for libraries", "either", _library(lambda column, _: pd.to_datetime(pd.factorize(column)[0]))),
        ("mixed types for libraries", "either", _library(lambda column, _: _first(column, 7, 20))),
        ("empty names of libraries", "either", _library(lambda column, _: _first(column, "", 20))),
        ("control characters in libraries", "either", _library(lambda column, _: column + "\x1b[31m")),
        ("paths for libraries", "either", _library(lambda column, _: "../" + column + "/x")),
        (
            "tuples for libraries",
            "either",
            _library(lambda column, _: pd.Series([("a", x) for x in column], column.index)),
        ),
        ("lists for libraries", "either", _library(lambda column, _: pd.Series([[x] for x in column], column.index))),
        ("text of pandas 3 for libraries", "same", _library(lambda column, _: column.astype("string"))),
        (
            "unused categories",
            "same",
            _library(lambda column, _: pd.Categorical(column, [*dict.fromkeys(column), "z"])),
        ),
        ("the library column twice", "either", _two_columns),
    )
]


def _uns(key: str, make: Callable[[ad.AnnData], Any]) -> Callable[[ad.AnnData, Rng], None]:
    def apply(adata: ad.AnnData, _: Rng) -> None:
        adata.uns[key] = make(adata)

    return apply


_ODD_ENTRIES: list[tuple[str, Any]] = [
    ("text", "x"), ("None", None), ("a number", 3), ("a list", [1, "a"]), ("an array", np.arange(6.0).reshape(3, 2)),
    ("an empty one", {}), ("a table", pd.DataFrame({"a": [1]})), ("bool", np.bool_(False)), ("nested", {"a": {"a": None}}),
    ("params that are none", {"params": 3, "connectivities_key": 4, "region_key": ["x"], "edges": 1, "scores": 2}),
]  # fmt: skip
_SCALES: list[tuple[str, Any]] = [
    ("None", None), ("text", "1.0"), ("none there", {}), ("NaN", {"spot_diameter_fullres": np.nan, "tissue_hires_scalef": 0}),
    ("negative", {"spot_diameter_fullres": -1, "tissue_hires_scalef": -1}),
    ("words", {"spot_diameter_fullres": "a", "microns_per_pixel": "b", "bin_size_um": None}),
    ("of bins", {"microns_per_pixel": 0.01, "bin_size_um": 2}),
]  # fmt: skip
UNS = [
    *(
        Damage(f"uns[{key!r}]", f"uns[{key!r}] is {name}", "either", _uns(key, lambda _, value=value: value))
        for key in ("spatial", "sagefm", "sagefm_neighbors", "spatialdata_attrs", "sagefm_domain", "sagefm_network")
        for name, value in _ODD_ENTRIES
    ),
    *(
        Damage("uns['spatial']", f"scale factors are {name}", "either",
               _uns("spatial", lambda _, value=value: {"lib": {"scalefactors": value, "images": {"hires": value}}}))
        for name, value in _SCALES
    ),
    Damage("uns['spatial']", "is_single", "same", _uns("spatial", lambda _: {"is_single": np.bool_(True)})),
    Damage("uns['spatial']", "many libraries", "either", _uns("spatial", lambda _: {c: {} for c in "abcd"})),
    Damage("uns['x']", "keys of uns are numbers", "either", _uns("x", lambda _: {1: 2})),
]  # fmt: skip


def _obs(key: Any, make: Callable[[ad.AnnData, Rng], Any]) -> Callable[[ad.AnnData, Rng], None]:
    def apply(adata: ad.AnnData, rng: Rng) -> None:
        adata.obs[key] = make(adata, rng)

    return apply


def _in_tissue(values: tuple[Any, ...]) -> Callable[[ad.AnnData, Rng], None]:
    return _obs("in_tissue", lambda adata, rng: [values[i] for i in rng.integers(0, len(values), adata.n_obs)])


def _odd_columns(adata: ad.AnnData, _: Rng) -> None:
    adata.obs["of lists"] = [[i] for i in range(adata.n_obs)]
    adata.obs[3] = 1
    adata.obs["sagefm_domain"] = "mine"
    adata.obs["sagefm_label"] = 1.5


def _odd_var(adata: ad.AnnData, _: Rng) -> None:
    adata.var["sagefm_imputed_r"] = "mine"
    adata.var["sagefm_gene"] = pd.Categorical(["a"] * adata.n_vars)
    adata.var["feature_types"] = np.nan


OBS = [
    Damage("obs", name, verdict, apply)  # type: ignore[arg-type]
    for name, verdict, apply in (
        ("rows that are no tissue", "error", _in_tissue((0, 1))),
        ("rows that are no tissue, as text", "error", _in_tissue(("FALSE", "TRUE"))),
        ("tissue is NaN", "either", _in_tissue((np.nan, 1))),
        ("tissue is nothing", "either", _in_tissue((0,))),
        ("tissue in words", "either", _in_tissue(("maybe", "no", None))),
        ("array rows are words", "either", _obs("array_row", lambda adata, _: ["a"] * adata.n_obs)),
        ("array rows are NaN", "either", _obs("array_row", lambda adata, _: np.nan)),
        ("array rows are infinite", "either", _obs("array_row", lambda adata, _: np.inf)),
        ("array rows are negative", "either", _obs("array_row", lambda adata, _: -5)),
        (
            "array rows of nullable numbers",
            "either",
            _obs(
                "array_row",
                lambda adata, _: pd.array([1, None] * (adata.n_obs // 2) + [1] * (adata.n_obs % 2), dtype="Int64"),
            ),
        ),
        ("columns with names of ours", "either", _odd_columns),
        ("var with names of ours", "either", _odd_var),
        ("a column called section", "either", _obs("section", lambda adata, rng: rng.integers(0, 3, adata.n_obs))),
    )
]


def _graph(make: Callable[[int, Rng], Any]) -> Callable[[ad.AnnData, Rng], None]:
    def apply(adata: ad.AnnData, rng: Rng) -> None:
        adata.obsp["sagefm_connectivities"] = make(adata.n_obs, rng)

    return apply


def _stale(adata: ad.AnnData, _: Rng) -> None:
    sagefm.pp.spatial_neighbors(adata)
    adata.obsm["spatial"] = np.array(adata.obsm["spatial"])[::-1].copy()


def _ring(n: int) -> sparse.csr_matrix:
    columns = (np.arange(n)[:, None] + np.arange(1, 15)) % n
    return sparse.csr_matrix((np.ones(columns.size), columns.ravel(), np.arange(0, columns.size + 1, 14)), shape=(n, n))


#: Read where a verb is called with ``neighbors_key="sagefm"``; else built anew, or as it was.
GRAPH = [
    Damage("graph", name, "either", apply)
    for name, apply in (
        ("no neighbors", _graph(lambda n, _: sparse.csr_matrix((n, n)))),
        ("only themselves", _graph(lambda n, _: sparse.eye_array(n, format="csr"))),
        ("a dense graph", _graph(lambda n, _: np.ones((n, n)))),
        ("a graph by columns", _graph(lambda n, _: _ring(n).tocsc())),
        ("a graph of bool", _graph(lambda n, _: _ring(n).astype(bool))),
        ("a graph of NaN", _graph(lambda n, _: _ring(n) * np.nan)),
        ("a negative graph", _graph(lambda n, _: -_ring(n))),
        ("a graph of words", _graph(lambda n, _: np.full((n, n), "a"))),
        ("a random graph", _graph(lambda n, rng: sparse.random_array((n, n), density=0.2, rng=rng, format="csr"))),
        ("a graph of other places", _stale),
    )
]


def _other(slot: str, key: str, make: Callable[[ad.AnnData, Rng], Any]) -> Callable[[ad.AnnData, Rng], None]:
    def apply(adata: ad.AnnData, rng: Rng) -> None:
        getattr(adata, slot)[key] = make(adata, rng)

    return apply


#: What is there beside; a layer may be read instead of X.
OTHERS = [
    Damage("others", name, verdict, apply)  # type: ignore[arg-type]
    for name, verdict, apply in (
        ("a layer of NaN", "same", _other("layers", "scaled", lambda adata, _: np.full(adata.shape, np.nan))),
        ("a layer of words", "either", _other("layers", "sagefm_imputed", lambda adata, _: np.full(adata.shape, "a"))),
        (
            "an embedding of NaN",
            "either",
            _other("obsm", "X_sagefm", lambda adata, _: np.full((adata.n_obs, 4), np.nan)),
        ),
        (
            "an embedding of words",
            "either",
            _other("obsm", "X_sagefm", lambda adata, _: np.full((adata.n_obs, 4), "a")),
        ),
        ("an embedding of nothing", "either", _other("obsm", "X_sagefm", lambda adata, _: np.ones((adata.n_obs, 0)))),
        ("an embedding all the same", "either", _other("obsm", "X_sagefm", lambda adata, _: np.ones((adata.n_obs, 4)))),
        (
            "an embedding as a table",
            "either",
            _other(
                "obsm", "X_sagefm", lambda adata, rng: pd.DataFrame(rng.random((adata.n_obs, 4)), index=adata.obs_names)
            ),
        ),
        (
            "an embedding in 3-D",
            "either",
            _other("obsm", "X_sagefm", lambda adata, rng: rng.random((adata.n_obs, 4, 2))),
        ),
        (
            "a huge embedding",
            "either",
            _other("obsm", "X_sagefm", lambda adata, rng: rng.random((adata.n_obs, 4)) * 1e300),
        ),
        ("X is empty, counts in a layer", "error", _only_layer),
        ("counts in raw", "error", _only_raw),
    )
]


def _first_rows(n: int) -> Callable[[ad.AnnData, Rng], None]:
    return lambda adata, _: adata._inplace_subset_obs(np.arange(min(n, adata.n_obs)))


def _first_genes(n: int) -> Callable[[ad.AnnData, Rng], None]:
    return lambda adata, _: adata._inplace_subset_var(np.arange(min(n, adata.n_vars)))


SIZE = [
    Damage("size", name, verdict, apply)  # type: ignore[arg-type]
    for name, verdict, apply in (
        ("no spots", "error", _first_rows(0)),
        ("one spot", "either", _first_rows(1)),
        ("two spots", "either", _first_rows(2)),
        ("14 spots", "either", _first_rows(14)),
        ("15 spots", "either", _first_rows(15)),
        ("no genes", "error", _first_genes(0)),
        ("one gene", "either", _first_genes(1)),
        ("two genes", "either", _first_genes(2)),
        ("eight genes", "either", _first_genes(8)),
    )
]

#: In the order in which they are applied.
DAMAGES = [
    *SIZE, *VALUES, *PLACES, *LIBRARY, *OBS, *GRAPH, *UNS, *GENE_NAMES, *SPOT_NAMES, *OTHERS, *STORAGE,
]  # fmt: skip
