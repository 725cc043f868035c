"""Bad inputs: sections with one to three things wrong, given to every verb and every command:

    python -m tests.reliability.inputs verbs --n 3000 --seed 0
    python -m tests.reliability.inputs commands --n 600 --seed 0

A case is made from its seed and number. What is right: a result of the right shape, finite, with a row a spot (the same
as without the damage where that must not matter), or an error of `sagefm.errors` that can be printed and leaves the object
as it was; `X` and all that is not ours stay as they were in any case. Of a command: exit status 0, 1 or 2, no traceback,
inputs as they were, and an output only where it says so. Prints what else happened, and counts.
"""

from __future__ import annotations

import argparse
import io
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
from scipy import sparse

import sagefm
from sagefm.errors import SagefmError
from tests.conftest import _digest, _state
from tests.reliability.damages import DAMAGES, Damage

#: A case that takes longer is stuck.
SECONDS = 60
#: Names that the verbs write, and scvi-tools for `setup_anndata`.
OURS = ("sagefm", "X_sagefm", "_scvi")
GENES = 2


@cache
def bases() -> dict[str, ad.AnnData]:
    """Return sections that work: a simulated one, two in a table, a corner of real cortex, a real square array."""
    cortex = sagefm.datasets.dlpfc()
    corner = cortex.obsm["spatial"].sum(axis=1).argsort()[:70]
    synovium = sagefm.datasets.synovium()
    found = {
        "one": sagefm.datasets.simulate(64, n_genes=220, rng=0),
        "two": sagefm.datasets.simulate(40, n_genes=220, n_sections=2, rng=1),
        "cortex": cortex[corner, np.sort(np.asarray(cortex.X.sum(axis=0)).ravel().argsort()[::-1][:300])].copy(),
        "synovium": synovium[:90, np.sort(np.asarray(synovium.X.sum(axis=0)).ravel().argsort()[::-1][:300])].copy(),
    }
    for name, adata in found.items():
        if "library" not in adata.obs:
            adata.obs["library"] = name
        adata.obs["group"] = np.where(np.arange(adata.n_obs) % 3, "a", "b")
        adata.obsm["X_sagefm"] = np.random.default_rng(0).normal(size=(adata.n_obs, 4)).astype(np.float32)
    return found


@cache
def model() -> Any:
    """Return a small trained model whose vocabulary has the genes of all bases."""
    from sagefm.model import SAGEFM

    adata = bases()["one"].copy()
    SAGEFM.setup_anndata(adata)
    trained = SAGEFM(
        adata, hidden=(6, 4), vocabulary=sorted({gene for base in bases().values() for gene in base.var_names})
    )
    trained.train(max_epochs=1, accelerator="cpu", progress=False)
    return trained.to_checkpoint()


class Stuck(BaseException):
    """Raised where a case takes too long; no handler of errors takes it for one."""


class Verb(NamedTuple):
    """A call, and what must be true of what it writes; the parts of a table that it reads."""

    call: Callable[..., Any]
    check: Callable[[ad.AnnData, Any], dict[str, Any]]
    #: What must be an error where the damage says so.
    reads: tuple[str, ...] = ("size", "values", "storage", "places", "library", "obs", "others")
    #: Keyword arguments that it takes.
    takes: tuple[str, ...] = ("library_key",)
    #: Called before, on the object: it may change it.
    first: Callable[..., Any] = lambda *_, **__: None


def _finite(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    values = np.asarray(values.toarray() if sparse.issparse(values) else values, dtype=np.float64)
    if values.shape != shape:
        raise AssertionError(f"the result has the shape {values.shape}, not {shape}")
    if not np.isfinite(values).all():
        raise AssertionError(f"{(~np.isfinite(values)).sum()} values of the result are not finite")
    return values


def _shares(values: Any) -> np.ndarray:
    """Probabilities and p-values; NaN where there is none."""
    values = np.asarray(values, dtype=np.float64)
    if ((values < 0) | (values > 1 + 1e-6)).any():
        raise AssertionError("a probability is below 0 or above 1")
    return values


def _pairs(adata: ad.AnnData) -> dict[str, list[Any]]:
    genes = [*adata.var_names[: 2 * GENES]]
    return {"sources": genes[:GENES], "targets": genes[GENES:]}


def _imputed(adata: ad.AnnData, _: Any) -> dict[str, Any]:
    layer = adata.layers["sagefm_imputed"]
    columns = list(range(min(GENES, adata.n_vars)))
    return {"values": _finite(layer[:, columns], (adata.n_obs, len(columns)))}


def _perturbed(adata: ad.AnnData, _: Any) -> dict[str, Any]:
    scores = adata.uns["sagefm_perturb"]["scores"]
    _shares(scores[["pval", "qval"]])
    # Slope and rank correlation are NaN where a source has one level.
    return {"effects": _finite(scores["effect"], (GENES * GENES,))}


def _network(adata: ad.AnnData, _: Any) -> dict[str, Any]:
    edges = adata.uns["sagefm_network"]["edges"]
    _shares(edges[["pval", "qval"]])
    return {"edges": edges.sort_values(["source", "target"])["effect"].to_numpy(dtype=float)}


def _domains(adata: ad.AnnData, _: Any) -> dict[str, Any]:
    if adata.obs["sagefm_domain"].isna().any() or len(adata.obs["sagefm_domain"]) != adata.n_obs:
        raise AssertionError("a spot has no domain")
    _finite(_shares(adata.obs["sagefm_domain_probability"]), (adata.n_obs,))
    return {"domains": adata.obs["sagefm_domain"].astype(str).to_numpy()}


def _annotated(adata: ad.AnnData, _: Any) -> dict[str, Any]:
    if adata.obs["sagefm_label"].isna().any():
        raise AssertionError("a spot has no label")
    return {"labels": adata.obs["sagefm_label"].astype(str).to_numpy()}


def _graph(adata: ad.AnnData, _: Any) -> dict[str, Any]:
    graph = sparse.csr_matrix(adata.obsp["sagefm_connectivities"])
    if graph.shape != (adata.n_obs, adata.n_obs) or (np.diff(graph.indptr) != 14).any() or graph.diagonal().any():
        raise AssertionError("not all spots have 14 neighbors")
    return {"graph": graph.toarray()}


def _binned(adata: ad.AnnData, tiles: ad.AnnData) -> dict[str, Any]:
    total = tiles.X.sum()
    return {"total": _finite(np.array([total]), (1,))}


def _reported(_: ad.AnnData, report: Any) -> dict[str, Any]:
    _printable(str(report))
    report.to_frame()
    if not report.ok:
        raise SagefmError("the report names an error")
    return {}


def _pooled(_: ad.AnnData, pooled: ad.AnnData) -> dict[str, Any]:
    return {"pooled": _finite(pooled.X, (pooled.n_obs, 4))}


def _trained(_: ad.AnnData, trained: Any) -> dict[str, Any]:
    latent = trained.get_latent_representation()
    return {"latent": _finite(latent, (trained.adata.n_obs, 4))}


def _setup(adata: ad.AnnData, **keys: Any) -> None:
    sagefm.model.SAGEFM.setup_anndata(adata, **keys)


def _train(adata: ad.AnnData, **_: Any) -> Any:
    trained = sagefm.model.SAGEFM(adata, hidden=(6, 4))
    trained.train(max_epochs=1, accelerator="cpu", progress=False)
    return trained


_QUIET = {"progress": False}
_EMBEDDED = ("size", "library")
VERBS = {
    "pp.check": Verb(lambda adata, **keys: sagefm.pp.check(adata, model(), verbose=False, **keys), _reported),
    "pp.match_genes": Verb(
        lambda adata: sagefm.pp.match_genes(adata, model()),
        lambda adata, report: _finite(report["matched"], (adata.n_vars,)) is None or {},
        reads=("size",),
        takes=(),
    ),
    "pp.spatial_neighbors": Verb(sagefm.pp.spatial_neighbors, _graph, reads=("size", "places", "library", "obs")),
    "pp.aggregate_bins": Verb(
        lambda adata, **keys: sagefm.pp.aggregate_bins(adata, width=250.0, **keys),
        _binned,
        reads=("size", "values", "storage", "library", "others"),
    ),
    "tl.embed": Verb(
        lambda adata, **keys: sagefm.tl.embed(adata, model(), **keys),
        lambda adata, _: {"embedding": _finite(adata.obsm["X_sagefm"], (adata.n_obs, 4))},
        takes=("library_key", "neighbors_key"),
    ),
    "tl.impute": Verb(
        lambda adata, **keys: sagefm.tl.impute(adata, model(), genes=[*adata.var_names[:GENES]], **_QUIET, **keys),
        _imputed,
        takes=("library_key", "neighbors_key"),
    ),
    "tl.impute, no model": Verb(
        lambda adata, **keys: sagefm.tl.impute(adata, None, genes=[*adata.var_names[:GENES]], **_QUIET, **keys), _imputed
    ),
    "tl.perturb": Verb(
        lambda adata, **keys: sagefm.tl.perturb(adata, model(), **_pairs(adata), **_QUIET, **keys),
        _perturbed,
        takes=("library_key", "neighbors_key", "groupby"),
    ),
    "tl.regulatory_network": Verb(
        lambda adata, **keys: sagefm.tl.regulatory_network(adata, **_pairs(adata), n_components=3, **keys),
        _network,
        takes=("library_key", "neighbors_key", "donor_key"),
    ),
    "tl.domains": Verb(
        lambda adata, **keys: sagefm.tl.domains(adata, 2, **keys), _domains, takes=("library_key", "neighbors_key", "use_rep")
    ),
    "tl.annotate": Verb(
        lambda adata, **keys: sagefm.tl.annotate(adata, bases()["two"], label_key="group", n_folds=2, **keys),
        _annotated,
        reads=("size",),
        takes=(),
    ),
    "tl.pool": Verb(
        lambda adata, **keys: sagefm.tl.pool(adata, **{"library_key": "library", **keys}), _pooled, reads=("size",)
    ),
    "SAGEFM.setup_anndata": Verb(_setup, lambda *_: {}, takes=("library_key", "neighbors_key")),
    "SAGEFM.train": Verb(_train, _trained, takes=("library_key", "neighbors_key"), first=_setup),
}  # fmt: skip
#: Verbs that write to a copy where they are asked to.
COPYING = {name for name in VERBS if name.startswith(("tl.", "pp.spatial"))} - {"tl.pool"}
#: Values of the keyword arguments.
KEYS = {
    "library_key": "library", "neighbors_key": "sagefm", "groupby": "group", "donor_key": "library", "use_rep": "X_sagefm",
}  # fmt: skip


class Case(NamedTuple):
    """What is called on what: a base, its damages, the way it is held, and keyword arguments."""

    base: str
    damages: tuple[Damage, ...]
    held: str
    verb: str
    keys: tuple[str, ...]

    def __str__(self) -> str:
        damages = ", ".join(damage.name for damage in self.damages)
        return f"{self.verb}({', '.join(self.keys)}) of {self.base} as {self.held} with {damages}"


def case(seed: int, number: int) -> Case:
    """Return a case of the campaign."""
    rng = np.random.default_rng([seed, number])
    base = [*bases()][rng.integers(len(bases()))]
    damages: dict[str, Damage] = {}
    for i in rng.permutation(len(DAMAGES))[: rng.integers(1, 4)]:
        damages.setdefault(DAMAGES[i].touches, DAMAGES[i])
    ordered = tuple(sorted(damages.values(), key=DAMAGES.index))
    held = ["AnnData", "AnnData", "AnnData", "view", "copy", "MuData", "file"][rng.integers(7)]
    verb = [*VERBS][rng.integers(len(VERBS))]
    keys = [key for key in VERBS[verb].takes if rng.random() < (0.9 if base == "two" and key == "library_key" else 0.4)]
    # `setup_anndata` is not for MuData, and reads no counts of a file.
    held = "AnnData" if verb.startswith("SAGEFM.") and held in ("MuData", "file", "copy") else held
    if "graph" not in damages:
        keys = [key for key in keys if key != "neighbors_key"]
    return Case(base, ordered, held, verb, tuple(keys))


def made(chosen: Case, seed: int, number: int, folder: Path) -> Any:
    """Return the damaged object of a case; None if none can have that damage."""
    rng = np.random.default_rng([seed, number, 1])
    adata = bases()[chosen.base].copy()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for damage in chosen.damages:
                damage.apply(adata, rng)
            return _hold(adata, chosen.held, folder)
    except Exception:  # noqa: BLE001 AnnData itself refuses it, as it may
        return None


def _hold(adata: ad.AnnData, held: str, folder: Path) -> Any:
    if held == "view":
        return adata[:]
    if held == "MuData":
        import mudata

        return mudata.MuData({"rna": adata})
    if held == "file":
        path = folder / "held.h5ad"
        path.unlink(missing_ok=True)
        adata.write_h5ad(path)
        return ad.read_h5ad(path, backed="r")
    return adata


def _others(adata: ad.AnnData) -> dict[str, Any]:
    """Return the state of all that is not ours, without what has no order."""
    adata = adata.copy() if adata.is_view else adata  # whose parts are of other types
    state: dict[str, Any] = {"X": _digest(adata.X), "names": (list(adata.obs_names), list(adata.var_names))}
    for slot in ("layers", "obsm", "obsp"):
        entries = getattr(adata, slot)
        state[slot] = {key: _digest(entries[key]) for key in entries if not str(key).startswith(OURS)}
    for slot in ("obs", "var"):
        frame = getattr(adata, slot)
        state[slot] = _digest(frame.loc[:, [not str(column).startswith(OURS) for column in frame.columns]])
    state["uns"] = {key: repr(value) for key, value in adata.uns.items() if not str(key).startswith(OURS)}
    return state


def _table(data: Any) -> ad.AnnData:
    return data.mod["rna"] if hasattr(data, "mod") else data


def _printable(message: str) -> None:
    message.encode()
    unprintable = [c for c in message if not c.isprintable() and c not in "\n\t"]
    if unprintable or len(message) > 10_000:
        raise AssertionError(f"the message cannot be printed: {ascii(message)[:300]}")


def run(chosen: Case, data: Any) -> tuple[str, dict[str, Any]]:
    """Run a case; return "result", the name of an error of ours or what is wrong, and the values of the result."""
    verb, table = VERBS[chosen.verb], _table(data)
    keys: dict[str, Any] = {key: KEYS[key] for key in chosen.keys}
    copies = chosen.held == "copy" and chosen.verb in COPYING
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            verb.first(data, **keys)
        # What AnnData itself makes of it when it is copied is not ours.
        before, others = _state(data), _others(table.copy() if copies else table)
    except SagefmError as error:
        return type(error).__name__, {}
    except Exception:  # noqa: BLE001 no part of it can be told from another
        return "not made", {}
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", RuntimeWarning)
            if copies:
                result = verb.call(data, copy=True, **keys)
                if _state(data) != before:
                    return "copy=True changed the object", {}
                table = result
            else:
                result = verb.call(data, **keys)
            values = verb.check(table, result)
        after = _others(table)
        if after != others:
            changed = [part for part, value in after.items() if value != others[part]]
            return f"changed what is not ours: {', '.join(changed)}", {}
        return "result", values
    except SagefmError as error:
        if _state(data) != before:
            return f"changed the object, then {type(error).__name__}: {error}", {}
        try:
            _printable(str(error))
        except (AssertionError, UnicodeError) as wrong:
            return str(wrong), {}
        return type(error).__name__, {}
    except Exception as error:  # noqa: BLE001 that there is none is what is tested
        return f"{type(error).__name__}: {str(error)[:200]}", {}


@cache
def _undamaged(base: str, verb: str, keys: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    return run(Case(base, (), "AnnData", verb, keys), bases()[base].copy())


def verdict(chosen: Case) -> str:
    """Return what must come of a case: "same", "error" or "either"."""
    touched = {damage.touches for damage in chosen.damages}
    reads = set(VERBS[chosen.verb].reads) - ({"library"} if "library_key" not in chosen.keys else set())
    reads -= {"values", "storage", "others"} if "use_rep" in chosen.keys else set()
    # Stored otherwise, what was wrong may be gone.
    reads -= {"values"} if {"values", "storage"} <= touched else set()
    if any(damage.verdict == "error" and damage.touches in reads for damage in chosen.damages):
        return "error"
    return "same" if all(damage.verdict == "same" for damage in chosen.damages) else "either"


def outcome(chosen: Case, seed: int, number: int, folder: Path) -> str:
    """Return "result", an error of ours, "not made", or what is wrong."""
    data = made(chosen, seed, number, folder)
    if data is None:
        return "not made"
    what, values = run(chosen, data)
    expected = verdict(chosen)
    if expected == "error" and what == "result":
        return "a result, where an error is due"
    if expected == "same" and what != "not made":
        without, right = _undamaged(chosen.base, chosen.verb, chosen.keys)
        if what != without and is_good(what):
            return f"{what}, and without the damage {without}"
        for name in values if what == "result" else ():
            same = values[name].shape == right[name].shape and (
                np.allclose(values[name], right[name], rtol=1e-3, atol=1e-5, equal_nan=True)
                if values[name].dtype.kind == "f" else (values[name] == right[name]).all()
            )  # fmt: skip
            if not same:
                return f"other {name} than without the damage"
    return what


def is_good(what: str) -> bool:
    return what in ("result", "not made") or hasattr(sagefm.errors, what)


def timed(call: Callable[[], str]) -> str:
    """Return what a call returns, or that it did not end in time."""

    def stop(*_: object) -> None:
        raise Stuck

    signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, SECONDS, 1)
        what = call()
    except Stuck:
        what = f"did not end in {SECONDS} seconds"
    signal.setitimer(signal.ITIMER_REAL, 0)
    return what


def verb_cases(seed: int, n: int, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield a case, in words, and what came of it."""
    for number in range(n):
        chosen = case(seed, number)
        yield f"{number}: {chosen}", timed(lambda number=number, chosen=chosen: outcome(chosen, seed, number, folder))


def main() -> int:
    from tests.reliability.damaged_files import command_cases

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["verbs", "commands"])
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", action="store_true", help="print every case")
    arguments = parser.parse_args()
    outcomes: Counter[str] = Counter()
    # What is written to a relative path is written there.
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        run_cases = verb_cases if arguments.kind == "verbs" else command_cases
        for words, what in run_cases(arguments.seed, arguments.n, Path(folder)):
            is_error = what not in ("result", "not made")
            outcomes["bad" if not is_good(what) else "error of ours" if is_error else what] += 1
            if arguments.log or not is_good(what):
                print(f"{words}: {what}", flush=True)
    print(dict(outcomes))
    return int(outcomes["bad"] > 0)


if __name__ == "__main__":
    sys.exit(main())
