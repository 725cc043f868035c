"""Every section of a folder through train (1 epoch), embed, impute and perturb.

python tests/benchmarks/all_sections.py FOLDER [--min-genes 2000]
"""

from __future__ import annotations

import argparse
import logging
import time
import traceback
import warnings
from pathlib import Path

import anndata as ad
import numpy as np

import sagefm


def run(path: Path) -> str:
    """Run all verbs on a section and return a row of the table."""
    adata = ad.read_h5ad(path)
    before = adata.X.copy()
    start = time.perf_counter()
    sagefm.model.SAGEFM.setup_anndata(adata)
    model = sagefm.model.SAGEFM(adata)
    model.train(max_epochs=1, progress=False)
    sagefm.tl.embed(adata, model)
    sagefm.tl.impute(adata, model, progress=False)
    top = adata.var_names[np.argsort(-np.asarray(adata.X.sum(axis=0)).ravel())[:4]]
    sagefm.tl.perturb(adata, model, sources=top[:2], targets=top[2:], progress=False)
    elapsed = time.perf_counter() - start
    # Of two Ensembl ids of one symbol, the second is not imputed.
    imputed = adata.layers["sagefm_imputed"][:, adata.var["sagefm_imputed"]]
    finite = np.isfinite(adata.obsm["X_sagefm"]).all() and np.isfinite(imputed).all()
    effects = adata.uns["sagefm_perturb"]["scores"]["effect"]
    if not finite or effects.isna().any() or (before != adata.X).nnz:
        raise ValueError("results are not finite, or X was changed")
    return f"| {path.stem} | {adata.n_obs} | {adata.n_vars} | {imputed.shape[1]} | {elapsed:.1f} |"


def main() -> None:
    """Print a row a section, and raise at the end if any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--min-genes", type=int, default=2000)
    parser.add_argument("--skip", nargs="*", default=["mouse", "xenium"], help="parts of file names to leave out")
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    failed, done = [], 0
    print("| section | spots | genes | imputed | seconds |\n|---|---|---|---|---|")
    for path in sorted(arguments.folder.glob("*.h5ad")):
        n_genes = ad.read_h5ad(path, backed="r").n_vars
        if n_genes < arguments.min_genes or any(part in path.name for part in arguments.skip):
            continue
        try:
            print(run(path), flush=True)
            done += 1
        except Exception:  # noqa: BLE001  the other sections are still to be run
            failed.append(path.name)
            traceback.print_exc()
    print(f"{done} sections done, {len(failed)} failed: {failed}")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
