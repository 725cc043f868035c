"""Every argument of every public function, replaced by what a slip, a script or a stranger would pass:

    python -m tests.reliability.arguments

Each call changes one argument of a call that works. Allowed are a result, and an error of `sagefm.errors`; the object
must be as it was after an error. Prints what else happened, and the number of calls.
"""

from __future__ import annotations

import argparse
import inspect
import io
import resource
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import sagefm
from sagefm.errors import SagefmError
from tests.conftest import _state

#: A call that takes longer was asked for too much.
SECONDS = 60
BYTES = 16 << 30


class Other:
    """An object that nobody expects."""

    def __repr__(self) -> str:
        return "Other()"


VALUES: dict[str, Any] = {
    "None": None, "True": True, "-1": -1, "0": 0, "1": 1, "2.5": 2.5, "nan": float("nan"), "inf": float("inf"),
    "-inf": float("-inf"), "2**32": 2**32, "-2**63": -(2**63), "10**30": 10**30, "empty": "", "nowhere": "nowhere",
    "control": "\x00\x1b[31m", "long": "a" * 300, "bytes": b"spatial", "[]": [], "list of names": ["spatial", "a"],
    "list of numbers": [0, 1], "nested": [[1, 2], [3]], "dict": {"a": 1}, "tuple": (1, "a"), "set": {"a"},
    "array": np.arange(3.0), "matrix": np.full((2, 2), np.nan), "frame": pd.DataFrame({"a": [1]}), "object": Other(),
    "numpy nan": np.float32("nan"), "numpy whole": np.int64(-5), "complex": 1j, "function": len, "type": int,
}  # fmt: skip
#: Arguments that are the object itself, or ask for another program; Dask's client says what it is not.
_LEFT_OUT = {"self", "client", "ax", "axes", "kwargs", "trainer_kwargs", "train", "accelerator", "devices", "cmap"}
#: Asked for is more work than can be done, and that is no slip; or a download.
_NOT_CALLED = {
    ("metrics.clustering", "n_seeds", "2**32"), ("SAGEFM.train", "max_epochs", "2**32"),
    ("datasets.simulate", "n_sections", "2**32"), ("datasets.simulate", "n_spots", "2**32"),
    ("model.load_published", "path", "None"),
}  # fmt: skip


def calls(folder: Path) -> dict[str, tuple[Callable[..., Any], Callable[[], tuple[Any, dict[str, Any]]]]]:
    """Return functions by name, each with one that makes an object and arguments that work."""
    from sagefm.model import SAGEFM, load_checkpoint

    base = sagefm.datasets.simulate(60, n_genes=220, n_sections=2, rng=0)
    SAGEFM.setup_anndata(base, library_key="library")
    model = SAGEFM(base, hidden=(6, 4))
    model.train(max_epochs=1, accelerator="cpu", progress=False)
    model.save(folder / "model")
    checkpoint = load_checkpoint(folder / "model")
    plain = sagefm.datasets.simulate(60, n_genes=220, n_sections=2, rng=0)
    genes = list(plain.var_names)
    done = plain.copy()
    sagefm.tl.embed(done, checkpoint, library_key="library")
    sagefm.tl.impute(done, checkpoint, library_key="library", progress=False)
    sagefm.tl.perturb(done, checkpoint, sources=genes[:2], targets=genes[2:4], library_key="library", progress=False)
    sagefm.tl.regulatory_network(done, genes[:3], genes[3:6], library_key="library", n_components=3)
    sagefm.tl.domains(done, 2, library_key="library")
    one = done[done.obs["library"] == done.obs["library"].iloc[0]].copy()
    for name, section in plain.obs.groupby("library", observed=True):
        plain[section.index].copy().write_h5ad(folder / f"{name}.h5ad")
    corpus = sagefm.datasets.Corpus.from_folder(folder)
    counts, truth = plain.X.toarray(), plain.uns["truth"]
    (folder / "hest" / "st").mkdir(parents=True)
    store = folder / "hest" / "st" / "TENX1.h5ad"
    plain.write_h5ad(store)
    facts = {"id": ["TENX1"], "organ": ["Skin"], "species": ["Homo sapiens"], "st_technology": ["Visium"]}
    pd.DataFrame(facts).to_csv(folder / "hest" / "HEST_v1_1_0.csv", index=False)
    edges = truth[["source", "target"]].assign(effect=truth["strength"], z=truth["strength"])
    quiet = {"progress": False}
    library = {"library_key": "library"}
    pair = {"source": genes[0], "target": genes[3]}

    def fresh(adata: Any, **kwargs: Any) -> Callable[[], tuple[Any, dict[str, Any]]]:
        return lambda: (adata.copy(), kwargs)

    models: list[Any] = []
    ready = plain.copy()
    SAGEFM.setup_anndata(ready, library_key="library")

    def method(name: str, **kwargs: Any) -> tuple[Any, Any]:
        def call(adata: Any, **arguments: Any) -> Any:
            getattr(models.pop(), name)(**arguments)

        def make() -> tuple[Any, dict[str, Any]]:
            adata = ready.copy()
            models[:] = [SAGEFM.from_pretrained(checkpoint, adata)]
            return adata, kwargs

        call.__signature__ = inspect.signature(getattr(SAGEFM, name))  # type: ignore[attr-defined]
        return call, make

    def new() -> tuple[Any, dict[str, Any]]:
        adata = plain.copy()
        SAGEFM.setup_anndata(adata, library_key="library")
        return adata, {"hidden": (6, 4)}

    def free(function: Callable[..., Any], **kwargs: Any) -> tuple[Any, Any]:
        """A function whose first argument may be anything."""
        return lambda _, **arguments: function(**arguments), lambda: (None, kwargs)

    found: dict[str, Any] = {
        "pp.check": (sagefm.pp.check, fresh(plain, verbose=False)),
        "pp.match_genes": (sagefm.pp.match_genes, fresh(plain, model=checkpoint)),
        "pp.spatial_neighbors": (sagefm.pp.spatial_neighbors, fresh(plain, **library)),
        "pp.aggregate_bins": (sagefm.pp.aggregate_bins, fresh(plain, width=100.0, **library)),
        "tl.embed": (sagefm.tl.embed, fresh(plain, model=checkpoint, **library)),
        "tl.impute": (sagefm.tl.impute, fresh(plain, model=checkpoint, genes=genes[:2], **library, **quiet)),
        "tl.perturb": (
            sagefm.tl.perturb,
            fresh(plain, model=checkpoint, sources=genes[:2], targets=genes[2:4], **library, **quiet),
        ),
        "tl.regulatory_network": (
            sagefm.tl.regulatory_network,
            fresh(plain, sources=genes[:3], targets=genes[3:6], n_components=3, **library),
        ),
        "tl.domains": (sagefm.tl.domains, fresh(plain, n_domains=2, **library)),
        "tl.annotate": (
            lambda adata, **arguments: sagefm.tl.annotate(adata, arguments.pop("reference", done), **arguments),
            fresh(done, label_key="domain", n_folds=2),
        ),
        "tl.pool": (sagefm.tl.pool, fresh(done, **library)),
        "datasets.plant": (sagefm.datasets.plant, fresh(plain, n_effects=2, n_decoys=2, **library)),
        "metrics.controls": (sagefm.metrics.controls, fresh(plain, n_components=3, **library)),
        "SAGEFM": (SAGEFM, new),
        "SAGEFM.setup_anndata": (SAGEFM.setup_anndata, fresh(plain, **library)),
        "SAGEFM.train": method("train", max_epochs=1, accelerator="cpu", **quiet),
        "SAGEFM.save": method("save", dir_path=folder / "saved", overwrite=True),
        "SAGEFM.push_to_hub": method("push_to_hub", repo_id="x"),
        "SAGEFM.load": free(SAGEFM.load, dir_path=folder / "model"),
        "SAGEFM.impute": method("impute", genes=genes[:2]),
        "SAGEFM.perturb": method("perturb", sources=genes[:1], targets=genes[1:2]),
        "SAGEFM.get_latent_representation": method("get_latent_representation"),
        "SAGEFM.from_pretrained": (
            lambda adata, **arguments: SAGEFM.from_pretrained(arguments.pop("model", checkpoint), adata, **arguments),
            fresh(plain),
        ),
        "pl.calibration": (sagefm.pl.calibration, fresh(done)),
        "pl.coupling": (sagefm.pl.coupling, fresh(one, **pair)),
        "pl.domains": (sagefm.pl.domains, fresh(one)),
        "pl.embedding": (sagefm.pl.embedding, fresh(one)),
        "pl.imputation": (sagefm.pl.imputation, fresh(one, gene=genes[0])),
        "pl.imputation_weights": (sagefm.pl.imputation_weights, fresh(done)),
        "pl.neighborhood": (sagefm.pl.neighborhood, fresh(one, spot=one.obs_names[0])),
        "pl.network": (sagefm.pl.network, fresh(done, source=genes[0], max_qval=1.0)),
        "pl.perturbation": (sagefm.pl.perturbation, fresh(done, source=genes[0], target=genes[2])),
        "pl.perturbation_heatmap": (sagefm.pl.perturbation_heatmap, fresh(done)),
        "pl.history": free(sagefm.pl.history, model_or_history=model.history),
        "metrics.Recovery": free(sagefm.metrics.Recovery, n_genes=3),
        "metrics.annotation": free(sagefm.metrics.annotation, labels=["a", "b"], predicted=["a", "a"]),
        "metrics.clustering": free(
            sagefm.metrics.clustering, embedding=done.obsm["X_sagefm"][:60], labels=list(done.obs["domain"][:60]),
            coordinates=done.obsm["spatial"][:60], n_seeds=1,
        ),
        "metrics.couplings": free(sagefm.metrics.couplings, edges=edges, truth=truth),
        "metrics.fit_components": free(sagefm.metrics.fit_components, counts=[plain.X], n_components=2),
        "metrics.interval_coverage": free(sagefm.metrics.interval_coverage, counts=counts, expected=counts + 0.1),
        "metrics.pit": free(sagefm.metrics.pit, counts=counts, expected=counts + 0.1, dispersion=np.ones(counts.shape[1])),
        "metrics.trust": free(sagefm.metrics.trust, table=sagefm.metrics.recovery(counts, counts + 0.1), n_spots=120),
        "metrics.noise_ceiling": free(sagefm.metrics.noise_ceiling, counts=plain.X),
        "metrics.pooled_d2": free(sagefm.metrics.pooled_d2, table=sagefm.metrics.recovery(counts, counts + 0.1)),
        "metrics.recovery": free(sagefm.metrics.recovery, counts=counts, predicted=counts + 0.1),
        "datasets.simulate": free(sagefm.datasets.simulate, n_spots=30, n_genes=200, n_effects=2, n_decoys=2),
        "datasets.Corpus.from_folder": free(sagefm.datasets.Corpus.from_folder, folder=folder),
        "datasets.hest": free(sagefm.datasets.hest, folder=folder / "hest"),
        "datasets.Corpus": free(lambda **arguments: sagefm.datasets.Corpus(**arguments).read(0), paths=[store]),
        "io.read": free(sagefm.io.read, path=store),
        "report": (
            sagefm.report,
            fresh(done, path=folder / "report.html", model=checkpoint, n_domains=2, genes=genes[:2], sources=genes[:2],
                  targets=genes[2:4], **library, **quiet),
        ),
        "model.load_checkpoint": free(sagefm.model.load_checkpoint, folder=folder / "model"),
        "model.load_published": free(sagefm.model.load_published, path=store),
        "model.pretrain": free(sagefm.model.pretrain, corpus=corpus, hidden=(6, 4), max_epochs=1, **quiet),
        "model.push_to_hub": free(sagefm.model.push_to_hub, checkpoint=checkpoint, repo_id="x", license="mit"),
    }  # fmt: skip
    signatures = {
        "tl.annotate": sagefm.tl.annotate,
        "SAGEFM.from_pretrained": SAGEFM.from_pretrained,
        "pl.history": sagefm.pl.history,
        "datasets.simulate": sagefm.datasets.simulate,
        "SAGEFM.load": SAGEFM.load,
        "datasets.Corpus": sagefm.datasets.Corpus,
        "datasets.Corpus.from_folder": sagefm.datasets.Corpus.from_folder,
        "datasets.hest": sagefm.datasets.hest,
        "io.read": sagefm.io.read,
        "model.load_published": sagefm.model.load_published,
        "model.load_checkpoint": sagefm.model.load_checkpoint,
        "model.pretrain": sagefm.model.pretrain,
        "model.push_to_hub": sagefm.model.push_to_hub,
    } | {f"metrics.{name}": getattr(sagefm.metrics, name) for name in sagefm.metrics.__all__}
    for name, (function, make) in found.items():
        signature = inspect.signature(signatures.get(name, function))
        kept = {p.name: p.default for p in signature.parameters.values() if p.name not in _LEFT_OUT}
        found[name] = function, make, kept
    return found


def cases(folder: Path) -> Iterator[tuple[str, str, str, Callable[[], str]]]:
    """Yield function, argument, value, and what makes the call and says what happened."""
    for name, (function, make, parameters) in calls(folder).items():
        first, _ = make()
        skipped = {"adata"} if first is not None else set()
        for parameter in parameters:
            if parameter in skipped:
                continue
            default = parameters[parameter]
            for value_name, value in VALUES.items():
                # Whether an array is true is asked of any program.
                if isinstance(default, bool) and value_name in ("array", "matrix", "frame"):
                    continue
                if (name, parameter, value_name) not in _NOT_CALLED:
                    yield (
                        name,
                        parameter,
                        value_name,
                        lambda f=function, m=make, p=parameter, v=value: outcome(f, m, p, v),
                    )


def outcome(function: Callable[..., Any], make: Callable[[], Any], parameter: str, value: Any) -> str:
    """Make one call of at most some seconds, and return what happened."""
    signal.signal(signal.SIGALRM, _stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, SECONDS, 1)  # again: a callback may swallow the first
        what = _outcome(function, make, parameter, value)
    except TimeoutError:
        what = f"did not end in {SECONDS} seconds"
    signal.setitimer(signal.ITIMER_REAL, 0)
    return what


def _outcome(function: Callable[..., Any], make: Callable[[], Any], parameter: str, value: Any) -> str:
    """Make one call, and return what happened: "result", the name of an error of ours, or what is wrong."""
    import matplotlib.pyplot as plt

    adata, arguments = make()
    before = None if adata is None else _state(adata)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            # Warnings of the package are no error here; those of others would be.
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("error", RuntimeWarning)
            function(adata, **{**arguments, parameter: value})
        return "result"
    except SagefmError as error:
        if adata is not None and _state(adata) != before:
            return f"changed the object, then {type(error).__name__}: {error}"
        return type(error).__name__
    except TimeoutError:
        raise
    except Exception as error:  # noqa: BLE001 that there is none is what is tested
        return f"{type(error).__name__}: {str(error)[:150]}"
    finally:
        plt.close("all")


def _stop(*_: object) -> None:
    raise TimeoutError


def is_good(what: str) -> bool:
    return what == "result" or hasattr(sagefm.errors, what)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="functions whose name begins so")
    arguments = parser.parse_args()
    outcomes: Counter[str] = Counter()
    # What asks for all the memory there is gets an error.
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    # What is written to a relative path is written there.
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        for name, parameter, value, call in cases(Path(folder)):
            if name.startswith(arguments.only):
                what = call()
                outcomes["result" if what == "result" else "error of ours" if is_good(what) else "bad"] += 1
                if not is_good(what):
                    print(f"{name}({parameter}={value}): {what}", flush=True)
    print(dict(outcomes))
    return int(outcomes["bad"] > 0)


if __name__ == "__main__":
    sys.exit(main())
