"""The whole report of a model: recovery, clustering, domains, annotation and small panels, each beside its controls.

Sections are those of `--donors`, or those that the checkpoint names as held out. Controls may learn from the other
donors' sections of the folder. Prints markdown tables; writes them, CSV files and figures to `--out`.

python tests/benchmarks/evaluate.py MODEL_DIR --sections FOLDER [--donors her2st_C her2st_G] [--published DIR]
    [--tasks recovery clustering domains annotation panels finetuning] [--out FOLDER]

The task "domains" needs no model; without --donors, it is of all labelled sections of the folder.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from functools import cached_property
from pathlib import Path

import pandas as pd
from _evaluation import _domains, _peers, _report, _sections, _structure
from _evaluation._recovery import COLUMNS, CONTROLLED, SectionEvaluation, mean_by_donor, replicated
from _evaluation._rows import Rows
from _evaluation._sections import cut_panel, donor, labels_of, list_sections, read_section, tissue
from anndata import AnnData

from sagefm.checkpoint._resolve import resolve_model
from sagefm.model import Checkpoint

TASKS = ("recovery", "clustering", "domains", "annotation", "panels", "finetuning")
PANELS = (5000, 2000, 500)
#: Fits of domains of several sections, each from the counts on.
FEW_SEEDS = 3
#: Tasks that need no model.
WITHOUT_MODEL = {"clustering", "domains"}
#: Sections with fewer spots are marked: their medians are noisy.
FEW_SPOTS = 200
#: Sections with fewer spots are too small to train on alone.
MIN_FINETUNING = 1000


class Evaluation:
    """A checkpoint, the sections to evaluate it on, and what controls learned from the others."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.checkpoint: Checkpoint | None = resolve_model(arguments.model) if arguments.model else None
        self.published = resolve_model(arguments.published) if arguments.published else None
        self.out, self.n_seeds = arguments.out, arguments.seeds
        self.finetuning_epochs = arguments.finetuning_epochs
        self.peers, self.stagate_epochs = arguments.peers, arguments.stagate_epochs
        self.paths = list_sections(arguments.sections)
        held_out = self.checkpoint.training.get("held_out") or [] if self.checkpoint else []
        names = held_out
        if arguments.donors:
            names = [name for name in self.paths if donor(name) in arguments.donors]
        elif arguments.tasks == ["domains"]:
            names = list(self.paths)
        self.names = [name for name in names if name in self.paths]
        if not self.names:
            raise SystemExit("No section to evaluate: no checkpoint names one as held out; pass --donors.")
        self.held_donors = {donor(name) for name in held_out or names}
        self.evaluated_donors = {donor(name) for name in names}
        self.seconds: list[dict[str, object]] = []

    @cached_property
    def training(self) -> _sections.Training | None:
        """What controls learn from the sections of other donors."""
        held = self.evaluated_donors | self.held_donors
        others = {name: path for name, path in self.paths.items() if donor(name) not in held}
        return _sections.learn(others, self.checkpoint.vocabulary.symbols)

    def timed(self, task: str, name: str, start: float) -> None:
        self.seconds.append({"task": task, "section": name, "seconds": time.perf_counter() - start})

    def recovery(self) -> None:
        """Score hidden genes; every table is written after each section."""
        parts: dict[str, list[pd.DataFrame]] = {}
        for name in self.names:
            start, adata = time.perf_counter(), read_section(self.paths[name])
            stored = self.out / "controls" / name
            measured = SectionEvaluation(adata, self.checkpoint, self.published, self.training, stored)
            tables = {"sections": measured.measure()}
            controls = [name for name in tables["sections"]["predictor"].unique() if name not in measured.ours]
            paired = [{"n_hidden": n} | measured.paired(controls, n) for n in CONTROLLED]
            tables |= {"paired": pd.DataFrame(paired), "coverage": measured.coverage()}
            tables |= {"nulls": pd.DataFrame([measured.nulls()]), "weights": pd.concat(measured.weights)}
            tables["trusted"] = measured.trusted()
            for key, table in tables.items():
                few = adata.n_obs < FEW_SPOTS
                table = table.assign(section=name, donor=donor(name), n_spots=adata.n_obs, few_spots=few)
                parts.setdefault(key, []).append(table)
                pd.concat(parts[key], ignore_index=True).to_csv(self.out / f"recovery_{key}.csv", index=False)
            self.timed("recovery", name, start)
        tables = {key: pd.concat(of_sections, ignore_index=True) for key, of_sections in parts.items()}
        table = tables["sections"]
        for n, of_n in table.groupby("n_hidden"):
            wide = of_n.pivot_table(index="predictor", columns="section", values="r", sort=False)
            marked = {s: f"{s}*" for s, few in of_n.groupby("section")["few_spots"].any().items() if few}
            title = f"Residual r by section, {n} of 3 folds hidden (* fewer than {FEW_SPOTS} spots)"
            _report.show(title, wide.rename(columns=marked).reset_index(), self.out)
        of_donors = table.groupby(["n_hidden", "donor", "predictor"], sort=False)[[*COLUMNS]].mean().reset_index()
        _report.show("Recovery by donor", of_donors, self.out, file="recovery.csv")
        means = mean_by_donor(table)
        best = _best_pca(means)
        _report.show("Recovery, mean of donors: the best penalty of the PCA controls", best, self.out)
        difference = tables["paired"].drop(columns=["n_spots", "few_spots"])
        _report.show("tl.impute less the best control, with 95 % intervals over genes", difference, self.out)
        coverage = tables["coverage"].groupby(["group", "level"], sort=False)[["covered", "covered_plain"]]
        shown = coverage.agg(["mean", "min", "max"]).reset_index()
        shown.columns = [" ".join(filter(None, column)) for column in shown.columns]
        _report.show("Coverage of intervals over sections", shown, self.out, file="coverage.csv")
        nulls = tables["nulls"].drop(columns=["n_spots", "few_spots"])
        _report.show("Where nothing is to be found: tissue turned, and genes drawn anew", nulls, self.out)
        title = "Genes that are trusted in a section, in the next section of the donor"
        _report.show(title, replicated(tables["trusted"]), self.out, file="trust.csv")
        weights = tables["weights"].groupby(["n_hidden", "donor", "bin", "predictor"], sort=False)["weight"].mean()
        _report.show("Weights by donor", weights.unstack("predictor").reset_index(), self.out, file="weights.csv")
        _report.plot_recovery(means, self.out)

    def _recovery(self, adata: AnnData, name: str) -> pd.DataFrame:
        found = SectionEvaluation(adata, self.checkpoint, self.published, self.training).measure()
        return found.assign(section=name, donor=donor(name), n_spots=adata.n_obs, few_spots=adata.n_obs < FEW_SPOTS)

    def clustering(self) -> None:
        # The row of an earlier run counts if it was of the same network.
        file = Rows(self.out / "clustering_sections.csv", ["section", "embedding", "network", "n_seeds"])
        rows = []
        for name in self.names:
            start, adata = time.perf_counter(), read_section(self.paths[name])
            if not _structure.has_classes(adata):
                continue
            makers = _structure.embedders(adata, self.checkpoint, self.published)
            if self.peers:
                makers |= _peers.peers(adata, self.stagate_epochs)
            for embedding, make in makers.items():
                key = {
                    "section": name,
                    "embedding": embedding,
                    "network": self._network(embedding),
                    "n_seeds": str(self.n_seeds),
                }
                row = file.find(key)
                if row is None:
                    row = file.add({**key, **_structure.evaluate_clustering(make, adata, self.n_seeds)})
                rows.append(row)
            self.timed("clustering", name, start)
        if not rows:
            print("No labelled section: no clustering.\n")
            return
        table = pd.DataFrame(rows).drop(columns=["network", "n_seeds"])
        by_section = table.pivot_table(index="embedding", columns="section", values="ari", sort=False).reset_index()
        _report.show("Adjusted Rand index by section", by_section, self.out)
        means = table.groupby("embedding", sort=False).mean(numeric_only=True).reset_index()
        _report.show("Clustering, mean of sections", means, self.out, file="clustering.csv")
        _report.plot_clustering(table, self.out)

    def domains(self) -> None:
        """Cluster the smoothed components of `tl.domains` beside its controls, and sections of one tissue together."""
        file = Rows(self.out / "domains_sections.csv", ["section", "embedding", "n_seeds"])
        rows, sections = [], {}
        for name in self.names:
            start, adata = time.perf_counter(), read_section(self.paths[name])
            if not _structure.has_classes(adata):
                continue
            sections[name] = adata
            makers = _domains.embedders(adata) | (_peers.peers(adata, self.stagate_epochs) if self.peers else {})
            for embedding, make in makers.items():
                key = {"section": name, "embedding": embedding, "n_seeds": str(self.n_seeds)}
                rows.append(
                    file.find(key) or file.add({**key, **_structure.evaluate_clustering(make, adata, self.n_seeds)})
                )
            self.timed("domains", name, start)
        table = pd.DataFrame(rows).drop(columns="n_seeds")
        by_section = table.pivot_table(index="section", columns="embedding", values="ari", sort=False).reset_index()
        _report.show("Domains: adjusted Rand index by section", by_section, self.out)
        is_held_out = table["section"].map(_domains.is_held_out)
        parts = {"all donors": table, "chosen on": table[~is_held_out], "looked at once": table[is_held_out]}
        for title, part in parts.items():
            if len(part):
                _report.show(f"Domains, means by tissue, {title}", _domains.by_tissue(part), self.out)
                _report.show(f"Domains, paired over donors, {title}", _domains.paired(part), self.out)
        # Panels have too few genes in common with the others.
        whole = {name: adata for name, adata in sections.items() if "genes" not in name}
        together = []
        for group, names in _domains.groups(list(whole)).items():
            row = _domains.evaluate_together({name: whole[name] for name in names}, min(self.n_seeds, FEW_SEEDS))
            together.append({"group": group, **row})
        if together:
            _report.show("Domains of several sections", pd.DataFrame(together), self.out, file="domains_together.csv")

    def _network(self, embedding: str) -> str:
        """Return the hash of the network that an embedding is of; empty for other methods."""
        if embedding == "published":
            return self.published.sha256
        return self.checkpoint.sha256 if embedding.startswith(("model", "random weights")) else ""

    def annotation(self) -> None:
        rows = []
        for group in dict.fromkeys(tissue(name) for name in self.names):
            start = time.perf_counter()
            # Panels have too few genes in common with the others.
            names = [n for n in self.paths if tissue(n) == group and "genes" not in n]
            sections = {name: read_section(self.paths[name]) for name in names}
            sections = {
                n: a for n, a in sections.items() if (known := labels_of(a)) is not None and known.nunique() > 1
            }
            # The labelled DLPFC sections are of one donor: each is the other's reference.
            groups = {name: name if group == "dlpfc" else donor(name) for name in sections}
            if len(set(groups.values())) < 2:
                continue
            found = _structure.evaluate_annotation(sections, groups, self.checkpoint, self.published)
            held = {value for name, value in groups.items() if donor(name) in self.held_donors}
            rows.append(found.assign(tissue=group, held_out=found["left_out"].isin(held)))
            self.timed("annotation", group, start)
        if not rows:
            print("No tissue with labels in two groups: no annotation.\n")
            return
        table = pd.concat(rows, ignore_index=True)
        table.to_csv(self.out / "annotation_groups.csv", index=False)
        for title, part in (("all donors", table), ("held-out donors", table[table["held_out"]])):
            keys = ["tissue", "learner", "features"]
            means = part.drop(columns=["left_out", "held_out"]).groupby(keys, sort=False).mean().reset_index()
            file = "annotation.csv" if title == "held-out donors" else None
            _report.show(f"Annotation, one group left out at a time, mean of {title}", means, self.out, file=file)

    def panels(self) -> None:
        recovered, clustered = [], []
        for name in self.names:
            adata = read_section(self.paths[name])
            for size in PANELS:
                if size >= adata.n_vars:
                    continue
                start, panel = time.perf_counter(), cut_panel(adata, size)
                recovered.append(self._recovery(panel, name).assign(panel=size))
                makers = _structure.embedders(panel, self.checkpoint, self.published)
                for embedding, make in makers.items() if _structure.has_classes(panel) else ():
                    found = _structure.evaluate_clustering(make, panel, self.n_seeds)
                    clustered.append({"panel": size, "embedding": embedding, "section": name, **found})
                self.timed(f"panel of {size}", name, start)
        if recovered:
            table = pd.concat(recovered, ignore_index=True)
            table.to_csv(self.out / "panels_recovery_sections.csv", index=False)
            means = _best_pca(mean_by_donor(table))
            _report.show("Recovery in panels, mean of donors", means, self.out, file="panels_recovery.csv")
        if clustered:
            means = (
                pd.DataFrame(clustered)
                .groupby(["panel", "embedding"], sort=False)
                .mean(numeric_only=True)
                .reset_index()
            )
            _report.show("Clustering in panels, mean of sections", means, self.out, file="panels_clustering.csv")

    def finetuning(self) -> None:
        """Train on one section alone, from the model and from random weights, and cluster it."""
        rows = []
        for name in self.names:
            adata = read_section(self.paths[name])
            if adata.n_obs < MIN_FINETUNING or not _structure.has_classes(adata):
                continue
            for start in (self.checkpoint, None):
                makers = _structure.finetuned(adata, start, self.finetuning_epochs)
                for embedding, make in makers.items():
                    found = _structure.evaluate_clustering(make, adata, self.n_seeds)
                    rows.append({"section": name, "embedding": embedding, **found})
        if rows:
            _report.show(
                "Clustering after training on the section", pd.DataFrame(rows), self.out, file="finetuning.csv"
            )


def _best_pca(means: pd.DataFrame) -> pd.DataFrame:
    """Return the table with one row for the penalties of a PCA control by r, and one by D2."""
    keys = [key for key in ("panel", "n_hidden") if key in means]
    kind = means["predictor"].str.extract(r"^(PCA.*), ridge", expand=False)
    rows = [means[kind.isna()]]
    for measure in ("r", "pooled_d2"):
        at = means[kind.notna() & means[measure].notna()].groupby([*keys, kind.rename("kind")])[measure].idxmax()
        best = means.loc[at]
        rows.append(best.assign(predictor=best["predictor"] + f" (best {measure})"))
    return pd.concat(rows).sort_values(keys, kind="stable", ascending=[key != "panel" for key in keys])


def main() -> None:
    """Run the tasks asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="folder of a checkpoint; needed by other tasks")
    parser.add_argument("--sections", type=Path, required=True)
    parser.add_argument("--donors", nargs="*", default=[])
    parser.add_argument("--published", help="folder of the published checkpoint, or 'published'")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=10, help="fits of a clustering")
    parser.add_argument("--peers", action="store_true", help="cluster with published methods too: minutes a section")
    parser.add_argument("--stagate-epochs", type=int, default=_peers.STAGATE_EPOCHS)
    parser.add_argument("--finetuning-epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("evaluation"))
    arguments = parser.parse_args()
    if not arguments.model and set(arguments.tasks) - WITHOUT_MODEL:
        parser.error(f"Tasks other than {sorted(WITHOUT_MODEL)} need a model; pass one, or choose among these.")
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "report.md").unlink(missing_ok=True)
    evaluation = Evaluation(arguments)
    for task in arguments.tasks:
        getattr(evaluation, task)()
    _report.show("Seconds", pd.DataFrame(evaluation.seconds), arguments.out, file="seconds.csv")


if __name__ == "__main__":
    main()
