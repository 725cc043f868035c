"""What a small network reads, and how it is trained: one setting at a time, on other donors than it is judged by.

A network of two layers is trained on all human sections of spots whose donor is not one of `DEV`, panels of 100 genes
left out: genes are hidden at random, and the network says by what factor their counts at a spot differ from the spot's
share of the section's totals (Poisson likelihood). At the donors of `DEV` genes are hidden in three folds, one at a
time, and at one spot at a time: its neighbors keep theirs. *r* is the median, over genes detected in at least 10 % of
the spots, of the correlation of Pearson residuals, *D2* the share of deviance explained, pooled over these genes; both
are means over sections of a donor, then over donors, and 0 for the null model. *Adapted* adds a ridge regression of the
hidden genes' residual counts on the scaled embedding, at precision 100, fitted on four fifths of the section's spots,
where these genes are known, and applied to the others.

All choices between settings were made by the donors of `DEV` alone. They are no test set: a choice among many settings
favors these donors, and genes are chosen by their detection in all sections, these included.

Options, each with what it tries:

--input             what a spot's counts are turned into before the first layer, always as a deviation from the section:
                    ``log`` log(1 + 10,000 x / size) less its mean over the other spots;
                    ``root`` the same with square roots, times sqrt(size / 10,000): a shallow spot says less;
                    ``sqrt`` 2 sqrt(x + 3/8) less that of the expected count: noise of about one at every depth;
                    ``nb`` Pearson residuals of a negative binomial with dispersion 1, clipped at 10;
                    ``nbf`` residuals weighted by what is expected at 3,000 counts in an average section, so that a
                    gene weighs the same in every section
--no-norm           no layer norm: the size of a spot's deviation reaches the embedding
--depth             log of the visible counts enters the hidden layer and scales the embedding
--neighborhood      ``two``: 128 principal components of logs (``root``: roots) of the counts, means over the 6 nearest
                    spots and over the 8 after these; ``none``: the spot alone
--mask              range of the share of genes hidden in training
--hidden, --latent  widths of the hidden layer and of the embedding
--dropout, --latent-dropout   of the hidden layer, and of the embedding
--lr, --weight-decay, --epochs, --seed   of AdamW with one cycle and averaged weights; 0 epochs train no network
--genes, --cap      number of genes, those most often detected; at most so many spots of a section are trained on
--controls          20 principal components of the training sections, fitted to the visible genes of a spot, by ridge
--verbose           rows of the donors, too

Prints a row ``| settings | r | D2 | r adapted | D2 adapted |``; settings are named where they are not the default.

python tests/benchmarks/research.py FOLDER --metadata tests/benchmarks/corpus.csv --input sqrt --mask 0.1 0.7
"""

from __future__ import annotations

import argparse
import logging
import warnings
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _research.evaluation import control_predictor, evaluate, network_predictor
from _research.network import train_network
from _research.sections import read_neighborhoods, read_sections
from _research.setting import INPUTS, NEIGHBORHOODS, Options

CONTROL_COMPONENTS, CONTROL_RIDGES = 20, (1, 3, 10, 30)


def show(name: str, table: pd.DataFrame, *, verbose: bool) -> None:
    """Print the mean over donors and, if asked for, each donor."""
    rows = [(name, table.mean())] + [(f"{name}: {donor}", row) for donor, row in table.iterrows() if verbose]
    for label, row in rows:
        print("|", " | ".join([label, *("" if np.isnan(value) else f"{value:.4f}" for value in row)]), "|", flush=True)


def parse() -> tuple[argparse.Namespace, Options]:
    """Arguments, and the setting among them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--metadata", type=Path, required=True)
    parser.add_argument("--input", choices=INPUTS, default="log")
    parser.add_argument("--neighborhood", choices=NEIGHBORHOODS, default="two")
    parser.add_argument("--no-norm", dest="norm", action="store_false")
    for flag in ("depth", "controls", "verbose"):
        parser.add_argument(f"--{flag}", action="store_true")
    parser.add_argument("--mask", type=float, nargs=2, default=(0.3, 0.3))
    for field in fields(Options):
        if type(field.default) in (int, float):
            name = f"--{field.name.replace('_', '-')}"
            parser.add_argument(name, type=type(field.default), default=field.default)
    arguments = parser.parse_args()
    arguments.mask = tuple(arguments.mask)
    return arguments, Options(**{field.name: getattr(arguments, field.name) for field in fields(Options)})


def main() -> None:
    """Print the row of one setting and, if asked for, those of the controls."""
    arguments, options = parse()
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    train, dev = read_sections(arguments.folder, arguments.metadata, options)
    if options.epochs:
        readings, held, _ = read_neighborhoods(train, dev, options)
        average = torch.from_numpy(np.mean([section.profile for section in train], axis=0))[None]
        network = train_network(readings, average, options)
        show(str(options), evaluate(held, network_predictor(network, average)), verbose=arguments.verbose)
    if arguments.controls:
        _, held, loadings = read_neighborhoods(train, dev, Options(input="log", neighborhood="none"))
        for ridge in CONTROL_RIDGES:
            table = evaluate(held, control_predictor(loadings[:CONTROL_COMPONENTS], ridge))
            name = f"corpus PCA, {CONTROL_COMPONENTS} components, ridge {ridge}"
            show(name, table, verbose=arguments.verbose)


if __name__ == "__main__":
    main()
