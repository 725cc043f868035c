"""Recovery of hidden genes: `tl.impute`, its predictors and controls on the same spots, folds and null."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from _evaluation import _models
from _evaluation._nulls import draw_anew, turned
from _evaluation._predictors import Profile, with_neighbors
from _evaluation._sections import Training
from _evaluation._smoothers import smoothers
from _evaluation._stacks import STACKED, Stacks
from sagefm.checkpoint._checkpoint import Checkpoint
from sagefm.data._genes import assign_folds
from sagefm.metrics import Recovery, fit_components, interval_coverage, noise_ceiling, pooled_d2, trust
from sagefm.metrics._controls import add_recovery, split_spots
from sagefm.metrics._predictors import Components, Model, Neighborhood, SectionCounts, fit_factor_model
from sagefm.metrics._rows import PredictedRows

DETECTED = 0.1
COLUMNS = ("r", "r_ceiling", "pooled_d2", "raw_r", "q_residual", "q_raw")
#: Numbers of hidden folds with which controls are measured.
CONTROLLED = (1, _models.N_FOLDS)
#: Controls beside the neighborhood that say something where all genes of a spot are hidden.
AROUND = ("profile", "PCA of corpus and around, ridge 1")
#: What is kept of the recovery of each gene by a control.
STORED = ("r", "qval", "raw_r", "raw_qval", "deviance", "null_deviance", "detected")
#: Genes that are drawn anew at a time, and draws of genes of the bootstrap.
N_DRAWN, N_BOOTSTRAP = 200, 500


class SectionEvaluation:
    """Everything that is measured on one section.

    Tables of the controls, which take most of the time, are kept in `stored`, and read from there if an earlier run with
    the same sections, vocabulary and folds wrote them.
    """

    def __init__(
        self,
        adata: AnnData,
        checkpoint: Checkpoint,
        published: Checkpoint | None,
        training: Training | None,
        stored: Path | None = None,
    ) -> None:
        self.stored = stored
        self.adata, self.checkpoint, self.published, self.training = adata, checkpoint, published, training
        self.match = _models.reader_of(adata, checkpoint).match
        self.counts = sparse.csr_matrix(adata.X[:, self.match.columns], dtype=np.float64)
        self.coordinates = np.asarray(adata.obsm["spatial"], dtype=np.float64)
        # The report is of these alone; the others are still shown, and hidden.
        self.genes = np.asarray((self.counts > 0).mean(axis=0)).ravel() >= DETECTED
        self.ceiling = noise_ceiling(self.counts)["ceiling"]
        self.tables: dict[tuple[int, str], pd.DataFrame] = {}
        self.weights: list[pd.DataFrame] = []
        self.ours: set[str] = set()

    @torch.inference_mode()
    def measure(self, n_hidden: tuple[int, ...] = (1, 2, 3)) -> pd.DataFrame:
        """Return a row a predictor and number of hidden folds, of medians over detected genes.

        Controls and single predictors are measured at the ends: a third of the genes hidden, and all.
        """
        for n in n_hidden:
            if n in CONTROLLED:
                self._add_controls(n)
            self._add_stacks(n)
        rows = [
            {"n_hidden": n, "predictor": name} | _summary(table, self.ceiling)
            for (n, name), table in self.tables.items()
        ]
        return pd.DataFrame(rows)

    def _add_controls(self, n: int) -> None:
        path = None if self.stored is None else self.stored.with_name(f"{self.stored.name}_{n}.npz")
        if path is None or not path.exists():
            tables = self._controls(n)
            if path is not None:
                path.parent.mkdir(exist_ok=True)
                np.savez_compressed(path, **{name: table[[*STORED]].to_numpy() for name, table in tables.items()})
        else:
            with np.load(path) as file:
                tables = {name: pd.DataFrame(file[name], columns=[*STORED]) for name in file.files}
        self.tables |= {(n, name): table for name, table in tables.items()}

    def _controls(self, n: int) -> dict[str, pd.DataFrame]:
        section = SectionCounts(self.counts, self.adata.obsp["sagefm_connectivities"])
        folds = assign_folds(self.match.genes, len(self.checkpoint.vocabulary), _models.N_FOLDS, 0)
        sums: dict[str, Recovery] = {}
        for train, spots in split_spots(section.n_spots):
            predictors = _controls(section, train, self.training, self.match.genes)
            if n == _models.N_FOLDS:
                # Of a spot that shows nothing, its neighbors tell something, and what is known of all spots.
                predictors = {name: predictors[name] for name in ("neighborhood", *AROUND) if name in predictors}
            add_recovery(sums, section, spots, predictors, folds, n, self.genes)
        every = np.arange(section.n_spots)
        smoothed: dict = smoothers(self.counts, self.coordinates, folds, n, self.genes)
        if self.published is not None:
            predicted = _models.impute(self.adata, self.published, n)
            smoothed["published"] = Model(PredictedRows(predicted, self.adata.shape), every, self.match.columns)
        add_recovery(sums, section, every, smoothed, folds, n, self.genes)
        return {name: recovery.result() for name, recovery in sums.items()}

    def _add_stacks(self, n: int) -> None:
        stacks = Stacks(self.adata, self.checkpoint, n, self.match.genes[self.genes], whole=n in CONTROLLED)
        self.weights.append(stacks.weights.assign(n_hidden=n))
        self.ours |= set(stacks.models)
        for name in stacks.models:
            recovery = Recovery(self.counts.shape[1])
            recovery.begin_section(self.coordinates)
            whole = np.full((3, *self.counts.shape), np.nan, np.float32) if (n, name) == (1, STACKED) else None
            for p in stacks.predicted(name):
                genes = stacks.layout.order[p.columns]
                recovery.update(p.counts, p.expected, null=p.null, genes=genes, spots=p.rows)
                if whole is not None:
                    for values, kept in zip((p.counts, p.expected, p.null), whole, strict=True):
                        kept[np.ix_(p.rows, genes)] = values
            recovery.add_spots(self.adata.n_obs)
            self.tables[n, name] = recovery.result()
            if whole is not None:
                self.counted, self.expected, self.null = whole[:, :, self.genes]

    def coverage(self) -> pd.DataFrame:
        """Return the coverage of the intervals of `tl.impute`."""
        return interval_coverage(self.counted, self.expected, depth=np.asarray(self.counts.sum(axis=1)).ravel())

    def trusted(self) -> pd.DataFrame:
        """Return how far each detected gene is trusted, and how well it is recovered, by `tl.impute`."""
        table = self.tables[1, STACKED].set_axis(self.adata.var_names[self.match.columns])[self.genes]
        kept = table[["r", "qval", "d2", "of_ceiling", "of_repeat"]]
        return kept.assign(trust=trust(table, self.adata.n_obs)).rename_axis("gene").reset_index()

    @torch.inference_mode()
    def nulls(self) -> dict[str, float]:
        """Return what is found in turned tissue, and of genes drawn anew."""
        root = np.sqrt(self.null)
        row = turned((self.counted - self.null) / root, (self.expected - self.null) / root, self.coordinates)
        rng = np.random.default_rng(0)
        detected = np.flatnonzero(self.genes)
        columns = rng.choice(detected, min(N_DRAWN, len(detected)), replace=False)
        adata = self.adata.copy()
        adata.X = draw_anew(sparse.csr_matrix(adata.X), self.match.columns[columns], rng)
        stacks = Stacks(adata, self.checkpoint, 1, self.match.genes[columns], whole=False)
        recovery = Recovery(self.counts.shape[1])
        recovery.begin_section(self.coordinates)
        for p in stacks.predicted(STACKED):
            recovery.update(p.counts, p.expected, null=p.null, genes=stacks.layout.order[p.columns], spots=p.rows)
        recovery.add_spots(adata.n_obs)
        drawn = recovery.result().iloc[columns]
        return row | {
            "drawn_r": drawn["r"].median(),
            "drawn_d2": pooled_d2(drawn, 0),
            "drawn_p05": (drawn["pval"] < 0.05).mean(),
            "drawn_q05": (drawn["qval"] < 0.05).mean(),
        }

    def paired(self, controls: list[str], n: int, name: str = STACKED) -> dict[str, float | str]:
        """Return the differences to the best control in r and in D2, with their 95 % intervals over genes.

        The best in r is one with a positive D2: of two profiles that do not match, r is a trend with depth.
        """
        ours, row = self.tables[n, name], {}
        kept = ((ours["detected"] >= DETECTED) & ours["deviance"].notna()).to_numpy()
        draws = np.random.default_rng(0).integers(kept.sum(), size=(N_BOOTSTRAP, kept.sum()))
        others = {control: self.tables[n, control] for control in controls if (n, control) in self.tables}
        ours = ours[["r", "deviance", "null_deviance"]]
        others = {control: table[[*ours]] for control, table in others.items()}
        for measure, of in (("r", _median_r), ("d2", _d2)):
            value = {control: of(table[kept]) for control, table in others.items() if _d2(table[kept]) > 0}
            best = max(value, key=lambda control: np.nan_to_num(value[control], nan=-np.inf))
            pair = [table[kept].reset_index(drop=True) for table in (ours, others[best])]
            differences = [of(pair[0].take(genes)) - of(pair[1].take(genes)) for genes in draws]
            low, high = np.quantile(differences, [0.025, 0.975])
            row |= {f"{measure}_best": best, measure: of(pair[0]) - value[best], f"{measure}_low": low}
            row |= {f"{measure}_high": high}
        return row


def _median_r(table: pd.DataFrame) -> float:
    return float(np.nanmedian(table["r"]))


def _d2(table: pd.DataFrame) -> float:
    return 1 - table["deviance"].sum() / table["null_deviance"].sum()


def _controls(section: SectionCounts, train: np.ndarray, training: Training | None, genes: np.ndarray) -> dict:
    found = {"neighborhood": Neighborhood(section), "factors": fit_factor_model(section, train, n_components=20)}
    if training:
        found["profile"] = Profile(training.profile[genes])
    loadings = {"section": fit_components([section.counts[train]])}
    if training:
        loadings["corpus"] = training.loadings[:, genes]
    # A small penalty is best by correlation, and a large one by deviance.
    found |= {f"PCA of {source}, ridge 1": Components(values, 1.0) for source, values in loadings.items()}
    found["PCA of section, ridge 100"] = Components(loadings["section"], 100.0)
    if training:
        corpus = Components(loadings["corpus"], 1.0)
        found["PCA of corpus and around, ridge 1"] = with_neighbors(corpus, section, train)
    return found


def _summary(table: pd.DataFrame, ceiling: pd.Series) -> dict[str, float]:
    kept = (table["detected"] >= DETECTED) & table["deviance"].notna()
    genes, bound = table[kept], ceiling[kept].median()
    r = genes["r"].median()
    return {
        "r": r,
        "r_ceiling": r / bound if bound > 0 else np.nan,
        "pooled_d2": pooled_d2(table, DETECTED),
        "raw_r": genes["raw_r"].median(),
        "q_residual": (genes["qval"] < 0.05).mean(),
        "q_raw": (genes["raw_qval"] < 0.05).mean(),
        "n_genes": len(genes),
    }


def replicated(trusted: pd.DataFrame) -> pd.DataFrame:
    """Return what becomes of genes that are trusted in a section, in the next section of the donor."""
    rows = []
    for name, of_donor in trusted.groupby("donor", sort=False):
        sections = [section for _, section in of_donor.groupby("section", sort=False)]
        for here, there in zip(sections, [*sections[1:], sections[0]], strict=True):
            if len(sections) > 1:
                pair = here.merge(there, on="gene", suffixes=("", "_there"))
                rows.append(pair.assign(recovered=(pair["qval_there"] < 0.05) & (pair["d2_there"] > 0), donor=name))
    if not rows:
        return pd.DataFrame()
    groups = pd.concat(rows).groupby(["donor", "trust"], sort=False, observed=True)
    return groups.agg(
        genes=("gene", "size"),
        r_here=("r", "median"),
        r_there=("r_there", "median"),
        recovered_there=("recovered", "mean"),
        good_there=("trust_there", lambda values: (values == "good").mean()),
    ).reset_index()


def mean_by_donor(sections: pd.DataFrame) -> pd.DataFrame:
    """Return means over donors of the means over their sections, by rows of the report."""
    keys = [key for key in ("panel", "n_hidden", "predictor") if key in sections]
    values = [*COLUMNS]
    by_donor = sections.groupby([*keys, "donor"], sort=False)[values].mean()
    return by_donor.groupby(level=keys, sort=False).mean().reset_index()
