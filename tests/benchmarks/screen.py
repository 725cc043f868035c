"""All ligands of LIANA's consensus set on one section: seconds, with the coupling of every pair.

python tests/benchmarks/screen.py [--pairs FILE] [--section FILE.h5ad] [--threads 2]

FILE is a table whose first two columns are ligand and receptor (CSV, or tab-separated, of single genes or of complexes joined by "_");
LIANA's own if left out (pip install liana). The section is a simulated one of 3,500 spots x 14,558 genes if left out.
Networks have random parameters: the time does not depend on them.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from embed import checkpoint, seconds, section

import sagefm
from sagefm.data._genes import match_genes


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--section", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    adata = section(3500) if arguments.section is None else ad.read_h5ad(arguments.section)
    sagefm.pp.spatial_neighbors(adata)
    if arguments.pairs is None:
        from liana.resource import select_resource

        resource = select_resource("consensus")
    else:
        resource = pd.read_csv(arguments.pairs, sep=None, engine="python")
    print(f"{adata.n_obs} spots x {adata.n_vars} genes, {resource.iloc[:, 0].nunique()} ligands in the resource")
    print("| architecture | ligands | pairs | seconds | seconds a ligand |\n|---|---|---|---|---|", flush=True)
    for architecture in ("published", "default"):
        model = checkpoint(architecture)
        measured = set(np.array(model.vocabulary.symbols)[match_genes(adata, model.vocabulary).genes])
        # A complex by its first gene, so that no ligand is left out for it.
        pairs = pd.DataFrame(
            {"source": resource.iloc[:, 0].str.split("_").str[0], "target": resource.iloc[:, 1].str.split("_").str[0]}
        )
        known = pairs["source"].isin(measured) & pairs["target"].isin(measured)
        pairs = pairs[known & (pairs["source"] != pairs["target"])].drop_duplicates()
        time = seconds(partial(sagefm.tl.perturb, adata, model, pairs=pairs, progress=False))
        n_ligands = pairs["source"].nunique()
        print(f"| {architecture} | {n_ligands:,} | {len(pairs):,} | {time:.0f} | {time / n_ligands:.3f} |", flush=True)


if __name__ == "__main__":
    main()
