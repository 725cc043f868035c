"""How often `sagefm.tl.domains` finds the number of domains of simulated sections, and what it says of labelled ones.

Simulated sections have 2 to 9 domains, 400 to 2,500 spots, weak and strong programs, shallow and deep counts, drawn at
random. Of labelled sections, the number of classes stands beside the number of domains.

python tests/benchmarks/number_of_domains.py [--simulations 60] [--sections FOLDER] [--seed 0]
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from _evaluation._sections import labels_of, list_sections
from sklearn.metrics import adjusted_rand_score

import sagefm


def simulated(n_simulations: int, seed: int) -> pd.DataFrame:
    """Return a row a section: its setting, the number of its domains and that which was chosen."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n_simulations):
        setting = {
            "n_domains": int(rng.integers(2, 10)),
            "n_spots": int(rng.choice([400, 1000, 2500])),
            "domain_sd": float(rng.choice([0.25, 0.5])),
            "median_counts": float(rng.choice([1000, 5000])),
        }
        adata = sagefm.datasets.simulate(n_genes=1000, rng=1000 * seed + i, **setting)
        sagefm.tl.domains(adata)
        chosen = adata.obs["sagefm_domain"]
        ari = adjusted_rand_score(adata.obs["domain"], chosen)
        rows.append({**setting, "chosen": chosen.nunique(), "ari": ari})
    return pd.DataFrame(rows)


def labelled(folder: Path) -> pd.DataFrame:
    """Return a row a section: the number of classes of an expert, and of domains."""
    import anndata as ad

    rows = []
    for name, path in list_sections(folder).items():
        adata = ad.read_h5ad(path)
        labels = labels_of(adata)
        if labels is None or labels.nunique() < 2:
            continue
        sagefm.tl.domains(adata)
        known = labels.notna().to_numpy()
        ari = adjusted_rand_score(labels[known].astype(str), adata.obs["sagefm_domain"][known])
        row = {"section": name, "n_classes": labels.nunique(), "chosen": adata.obs["sagefm_domain"].nunique()}
        rows.append({**row, "ari": ari})
    return pd.DataFrame(rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sections", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    table = simulated(arguments.simulations, arguments.seed)
    off = (table["chosen"] - table["n_domains"]).abs()
    summary = table.assign(exact=off == 0, within_one=off <= 1)
    for keys in (["domain_sd", "median_counts"], ["n_spots"]):
        print(summary.groupby(keys)[["exact", "within_one", "ari"]].mean().round(3).to_string(), "\n")
    print(f"{len(table)} sections: exact {(off == 0).mean():.3f}, within one {(off <= 1).mean():.3f}")
    if arguments.sections is not None:
        print(labelled(arguments.sections).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
