"""The command line: what the functions do to objects, done to files.

Only click is imported here; torch, scanpy and the rest follow when a command runs.
"""

from __future__ import annotations

import click

import sagefm
from sagefm.cli._convert import convert
from sagefm.cli._demo import demo
from sagefm.cli._domains import domains
from sagefm.cli._info import info
from sagefm.cli._network import network
from sagefm.cli._pretrain import pretrain
from sagefm.cli._report import report
from sagefm.cli._run import SagefmGroup
from sagefm.cli._train import train
from sagefm.cli._verbs import embed, impute, perturb

__all__ = ["main"]


@click.group(
    cls=SagefmGroup,
    commands=[demo, report, info, domains, embed, impute, network, perturb, train, pretrain, convert],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True},
)
@click.version_option(sagefm.__version__, prog_name="sagefm")
def main() -> None:
    """Find domains in Visium sections; embed, impute and perturb them with a graph model.

    A section is a folder of Space Ranger (Visium or Visium HD), or a file of raw counts with spot coordinates:
    AnnData as .h5ad or .zarr, SpatialData as .zarr, MuData as .h5mu, or a table of legacy Spatial Transcriptomics. No
    command changes its input. Results are added to a copy, which is written to -o.

    \b
    A first look, on a section that ships with the package:
      sagefm demo
    \b
    Your own sections, with the model that ships with the package:
      sagefm report sample/outs -o sample.html
      sagefm info section.h5ad
      sagefm domains section.h5ad -o domains.h5ad
      sagefm embed section.h5ad -o embedded.h5ad
      sagefm impute section.h5ad -o imputed.h5ad
      sagefm embed sections/*.h5ad -o embedded
    \b
    Optional: a model trained on sections of your own.
      sagefm train sections/*.h5ad -o my_model
      sagefm embed section.h5ad -m my_model -o embedded_by_mine.h5ad

    Exit status: 0 success, 1 an input, or one of several, that cannot be used (the message says what to do), 2 wrong
    usage, 130 interrupted, 143 terminated.
    """
