"""Couplings beside controls and published methods, in one run: planted effects, turned tissue, time, known pairs.

simulate   simulated sections of 1,000 spots x 1,500 genes (and of 3,500 spots) with 20 planted effects and 15 pairs of each of
           six kinds of decoys, in four settings
plant      effects planted into real sections by thinning
rotate     share of small p-values with the tissue of the sources turned
time       all pairs of 3,500 spots x 10,000 genes, and chosen ones, beside one dense matrix product
known      known pairs of genes against pairs of the same expression and against shuffled ones, in sections of one tissue and
           combined by donor; and the known targets of a source as a set, against the same set and other sources
agree      how well the couplings of two sections agree

python tests/benchmarks/couplings.py simulate [--seeds 10]
python tests/benchmarks/couplings.py plant [FILE ...]
python tests/benchmarks/couplings.py rotate [FILE ...]
python tests/benchmarks/couplings.py time
python tests/benchmarks/couplings.py known [FILE ...] --pairs TABLE ... [--ligands TABLE] [--metadata tests/benchmarks/corpus.csv]
python tests/benchmarks/couplings.py agree FILE FILE ...

FILE: an h5ad file of raw counts with coordinates. Default: the two sections of the package.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from _couplings.known import (
    CONTROLS,
    MIN_TARGETS,
    ByDonor,
    Compared,
    agreement,
    auroc,
    common_genes,
    read_pairs,
    set_test,
)
from _couplings.methods import BLOCK_GENES, all_pairs, couplings, methods, turned_shares

import sagefm

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DECOYS = ("domain", "cell_type", "factor", "white_factor", "field", "absent")
SETTINGS: dict[str, dict[str, Any]] = {
    "domains of sd .3": {"domain_sd": 0.3},
    "domains of sd .5": {"domain_sd": 0.5},
    "hostile: domains of sd 1, uneven depth, 15 % bleed": {"domain_sd": 1.0, "depth_sd": 0.8, "bleed": 0.15},
    "3,500 spots, domains of sd .3": {"n_spots": 3500, "domain_sd": 0.3},
}
STRENGTHS = (0.5, 0.25)
#: Genes on either side whose pairs have no effect.
NULL_GENES = 200
LEVELS = (0.05, 0.001)
#: Genes on either side whose fields are turned, of those seen in this share of the spots.
TURNED_GENES, MIN_SEEN = 500, 0.05
JOBS = ("all pairs", "ligands x receptors", "product")
SCORES = ("coupling", "around", "same spot")
#: Sets of targets of fewer sources say nothing.
MIN_SOURCES = 10


def simulate(arguments: argparse.Namespace) -> None:
    """Print a table for each setting and strength."""
    for setting, parameters in SETTINGS.items():
        for strength in STRENGTHS:
            if "n_spots" in parameters and strength == max(STRENGTHS):
                continue
            rows, null = [], []
            for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
                adata = sagefm.datasets.simulate(
                    **parameters, n_effects=20, n_decoys=15, decoys=DECOYS, strength=strength, rng=seed
                )
                rows += _scored(adata, clusters=True)
                null.append(type_one(adata, adata.uns["truth"]))
            _show(f"{setting}; strength {strength:g}; {arguments.seeds} seeds", rows)
            shares = pd.DataFrame(null)
            cells = (f"{number(shares[i].mean(), 4)} below {level:g}" for i, level in enumerate(LEVELS))
            print(
                f"\nCouplings of random genes that are in no planted pair, share of p-values: {', '.join(cells)}",
                flush=True,
            )


def plant(arguments: argparse.Namespace) -> None:
    """Print a table for each section and strength."""
    for name, adata in _sections(arguments.files):
        for strength in STRENGTHS:
            rows = []
            for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
                planted = sagefm.datasets.plant(adata, strength=strength, n_effects=40, n_decoys=40, rng=seed)
                rows += _scored(planted, clusters=False)
            _show(f"{name}; strength {strength:g}; {arguments.seeds} seeds", rows)


def _scored(adata: ad.AnnData, *, clusters: bool) -> list[dict[str, Any]]:
    """Return a row for each method: how it tells planted pairs from decoys."""
    sagefm.pp.spatial_neighbors(adata)
    truth, rows = adata.uns["truth"], []
    for method, score in methods(clusters=clusters).items():
        start = time.perf_counter()
        edges = score(adata, truth)
        seconds = time.perf_counter() - start
        row: dict[str, Any] = {"method": method, **_summary(sagefm.metrics.couplings(edges, truth))}
        if edges["effect"].isna().all():
            row["signs"] = np.nan
        row["seconds"] = seconds
        rows.append(row)
    return rows


def _summary(table: pd.DataFrame) -> dict[str, float]:
    """Return the figures of a row."""
    whole = table.loc["all"]
    return {
        "AUROC": whole["auroc"],
        "AP": whole["average_precision"],
        "FDR": whole["fdr"],
        "power": whole["power"],
        "signs": whole["right_signs"],
        "AUROC, absent": table.at["absent", "auroc"],
        **{kind.replace("_", " "): value for kind, value in table["called"].drop("all").items()},
    }


def type_one(adata: ad.AnnData, truth: pd.DataFrame) -> list[float]:
    """Return the share of small p-values among pairs of random genes that are in no planted pair."""
    planted = truth[truth["kind"] == "planted"]
    others = np.setdiff1d(adata.var_names.to_numpy(dtype=str), planted[["source", "target"]].to_numpy(dtype=str))
    genes = np.random.default_rng(0).permutation(others)[: 2 * NULL_GENES]
    edges = couplings(adata, pd.DataFrame({"source": genes[:NULL_GENES], "target": genes[NULL_GENES:]}))
    return [float((edges["pval"] < level).mean()) for level in LEVELS]


def _show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print means over seeds, and standard errors of the first three columns, as a table."""
    table = pd.DataFrame(rows).set_index("method")
    groups = table.groupby(level=0, sort=False)
    mean, error = groups.mean(), groups.sem()
    print(f"\n{title}\n\n| method | {' | '.join(mean)} |\n|{'---|' * (len(mean.columns) + 1)}")
    for method, row in mean.iterrows():
        cells = [
            f"{number(value)} ± {number(error.at[method, name])}"
            if name in ("AUROC", "AP", "FDR") and np.isfinite(value)
            else number(value, 1 if name == "seconds" else 3)
            for name, value in row.items()
        ]
        print(f"| {method} | {' | '.join(cells)} |", flush=True)


def number(value: float, digits: int = 3) -> str:
    """Return a number without a leading zero; nothing where there is none."""
    return f"{value:.{digits}f}".replace("0.", ".", 1 if abs(value) < 1 else 0) if np.isfinite(value) else ""


def rotate(arguments: argparse.Namespace) -> None:
    """Print, for each section, the share of small p-values with the tissue of the sources turned."""
    levels = [f"p < {level:g}".replace("0.", ".") for level in LEVELS]
    print(
        f"| section | spots | turns | {' | '.join(levels)} | {' | '.join(f'correlation, {name}' for name in levels)} |"
    )
    print(f"|{'---|' * (3 + 2 * len(LEVELS))}")
    for name, adata in _sections(arguments.files):
        sagefm.pp.spatial_neighbors(adata)
        seen = np.flatnonzero(adata.X.getnnz(axis=0) >= MIN_SEEN * adata.n_obs)
        genes = np.random.default_rng(0).permutation(adata.var_names[seen].unique())[: 2 * TURNED_GENES]
        sources, targets = np.array_split(genes, 2)
        sagefm.tl.regulatory_network(adata, list(sources), list(targets), null="rotation", device="cpu")
        null = adata.uns["sagefm_network"]["null"].set_index("level")
        shares = [*null.loc[list(LEVELS), "turned"], *turned_shares(adata, sources, targets, LEVELS)]
        cells = " | ".join(number(share, 4) for share in shares)
        print(f"| {name} | {adata.n_obs} | {null['n_turns'].iloc[0]} | {cells} |", flush=True)


def measure(arguments: argparse.Namespace) -> None:
    """Print seconds and peak memory of all pairs, of named ones, and of the matrix product alone, each in a process."""
    if arguments.job is not None:
        print(json.dumps(_measured(arguments.job, arguments.table, arguments.threads)))
        return
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "section.h5ad"
        adata = sagefm.datasets.simulate(3500, n_genes=10_000)
        seen = adata.X.getnnz(axis=0) / adata.n_obs
        adata.write_h5ad(table)
        print(f"{adata.n_obs:,} spots x {adata.n_vars:,} genes, {seen.mean():.0%} of the values not zero; ", end="")
        print(f"{arguments.threads} threads, median of {arguments.rounds} rounds\n")
        print("| job | pairs | seconds | of the product | peak memory, GB |\n|---|---|---|---|---|", flush=True)
        rows = []
        for _ in range(arguments.rounds):
            for job in JOBS:
                command = [sys.executable, __file__, "time", "--job", job, "--table", str(table)]
                command += ["--threads", str(arguments.threads)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                rows.append({"job": job, **json.loads(done.stdout.splitlines()[-1])})
    medians = pd.DataFrame(rows).groupby("job").median().loc[list(JOBS)]
    for job, row in medians.iterrows():
        ratio = row["seconds"] / medians.at["product", "seconds"] if job == "all pairs" else np.nan
        print(f"| {job} | {row['pairs']:,.0f} | {row['seconds']:.1f} | {number(ratio)} | {row['peak']:.2f} |")


def _measured(job: str, table: Path, threads: int) -> dict[str, float]:
    """Return the seconds of a job, its number of pairs, and the largest memory of this process in GB."""
    torch.set_num_threads(threads)
    adata = ad.read_h5ad(table)
    sagefm.pp.spatial_neighbors(adata)
    genes = list(adata.var_names)
    start = time.perf_counter()
    if job == "product":
        values = torch.from_numpy(adata.X.toarray())
        for block in range(0, len(genes), BLOCK_GENES):
            values[:, block : block + BLOCK_GENES].T @ values
        n_pairs = len(genes) ** 2
    else:
        sides = (genes, genes) if job == "all pairs" else _ligands_and_receptors(genes)
        start = time.perf_counter()
        sagefm.tl.regulatory_network(adata, *sides, device="cpu")
        n_pairs = adata.uns["sagefm_network"]["params"]["n_pairs"]
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    return {"pairs": n_pairs, "seconds": seconds, "peak": peak}


def _ligands_and_receptors(genes: list[str]) -> tuple[list[str], list[str]]:
    """Return measured ligands and receptors of LIANA's consensus resource, without complexes."""
    from liana.resource import select_resource

    resource = select_resource("consensus")
    ligands, receptors = (sorted(set(resource[column]) & set(genes)) for column in ("ligand", "receptor"))
    return ligands, receptors


def known(arguments: argparse.Namespace) -> None:
    """Print the AUROC of known pairs against controls, by section and combined, and a test of sources' sets of targets."""
    donors = pd.read_csv(arguments.metadata, index_col="id")["donor"] if arguments.metadata else pd.Series(dtype=str)
    sections = sorted(_sections(arguments.files), key=lambda section: donors.get(section[0], section[0]))
    genes, rng = common_genes([adata for _, adata in sections]), np.random.default_rng(0)
    pairs = {path.name.split(".")[0]: read_pairs(path) for path in arguments.pairs}
    if arguments.ligands:
        others = [path for path in arguments.pairs if path != arguments.ligands]
        pairs |= {f"{path.name.split('.')[0]}, ligands": read_pairs(path, arguments.ligands) for path in others}
    tables = [Compared.of(name, table, genes, rng) for name, table in pairs.items()]
    tables = [table for table in tables if len(table.known) >= MIN_TARGETS]
    columns = ["pairs", "sources", "number", "section", *(f"{score}, {kind}" for score in SCORES for kind in CONTROLS)]
    print(f"{len(genes.names):,} genes\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    combined = {score: ByDonor() for score in SCORES}
    for name, adata in sections:
        sagefm.pp.spatial_neighbors(adata)
        scores = all_pairs(adata, genes.names)
        if len(sections) > 1 and not arguments.only_combined:
            _show_known(name, scores, tables, rng)
        for score in SCORES:
            combined[score].add(scores.pop(score), donors.get(name, name))
    scores = {score: by_donor.combined() for score, by_donor in combined.items()}
    _show_known(f"{len(sections)} sections, {combined['coupling'].n_donors} donors", scores, tables, rng)
    print(f"\n| known targets as a set | score | sources with {MIN_TARGETS} or more | p < .05 |\n|---|---|---|---|")
    for table in tables:
        for score in SCORES:
            sets = set_test(scores[score], table.known, rng)
            if len(sets) >= MIN_SOURCES:
                share = f"{number((sets < 0.05).mean())} ± {number(np.sqrt(0.05 * 0.95 / len(sets)))}"
                print(f"| {table.name} | {score} | {len(sets)} | {share} |", flush=True)


def _show_known(section: str, scores: dict[str, np.ndarray], tables: list[Compared], rng: np.random.Generator) -> None:
    """Print a row for each table of pairs."""
    for table in tables:
        cells = []
        for score in SCORES:
            for others in table.controls.values():
                value, error = auroc(np.abs(scores[score]), table.known, others, rng)
                cells.append(f"{number(value)} ± {number(error)}")
        n_sources = len(np.unique(table.known[:, 0]))
        print(f"| {table.name} | {n_sources} | {len(table.known):,} | {section} | {' | '.join(cells)} |", flush=True)


def agree(arguments: argparse.Namespace) -> None:
    """Print how well the couplings of pairs of sections agree, over all pairs of genes."""
    print("| sections | genes | score | rank correlation | shared of the strongest 1,000 | by chance | same sign |")
    print(f"|{'---|' * 7}")
    for first, second in combinations(_sections(arguments.files), 2):
        genes = common_genes([first[1], second[1]])
        scores = []
        for _, adata in (first, second):
            sagefm.pp.spatial_neighbors(adata)
            scores.append(all_pairs(adata, genes.names))
        for score in SCORES:
            values = list(agreement(*(of_section[score] for of_section in scores)).values())
            cells = f"{number(values[0])} | {values[1]:.0f} | {values[2]:.1f} | {number(values[3], 2)}"
            print(f"| {first[0]}, {second[0]} | {len(genes.names):,} | {score} | {cells} |", flush=True)


def _sections(files: Sequence[Path]) -> Iterator[tuple[str, ad.AnnData]]:
    """Yield name and counts of each section."""
    if not files:
        yield "synovium", sagefm.datasets.synovium()
        yield "dlpfc", sagefm.datasets.dlpfc()
    for path in files:
        yield path.stem, ad.read_h5ad(path)


def main() -> None:
    """Print the tables of one command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, run in (
        ("simulate", simulate), ("plant", plant), ("rotate", rotate), ("time", measure), ("known", known), ("agree", agree),
    ):  # fmt: skip
        command = commands.add_parser(name, help=run.__doc__)
        command.set_defaults(run=run)
        if run in (plant, rotate, known, agree):
            command.add_argument("files", type=Path, nargs="*")
        if run in (simulate, plant):
            command.add_argument("--seeds", type=int, default=10 if run is simulate else 3)
            command.add_argument("--first-seed", type=int, default=100)
        if run is known:
            command.add_argument("--pairs", type=Path, nargs="+", required=True, help="tab-separated: source, target")
            command.add_argument("--ligands", type=Path, help="of other tables, also the pairs of sources of this one")
            command.add_argument("--metadata", type=Path, help="CSV with columns id (of a file) and donor")
            command.add_argument("--only-combined", action="store_true", help="no rows of single sections")
        if run is measure:
            command.add_argument("--rounds", type=int, default=1)
            command.add_argument("--threads", type=int, default=2)
            command.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
            command.add_argument("--table", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    arguments.run(arguments)


if __name__ == "__main__":
    main()
