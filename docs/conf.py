"""Sphinx configuration."""

from __future__ import annotations

import os
import warnings
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sagefm.cli import main

if TYPE_CHECKING:
    from sphinx.application import Sphinx

# sphinx-autodoc-typehints 3.6 with Sphinx 9, once for each parameter.
warnings.filterwarnings("ignore", message=".*set_application.*")

project = "sagefm"
author = "The sagefm developers"
project_copyright = f"2026, {author}"
release = version = installed_version("sagefm")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build", "jupyter_execute", "**.ipynb_checkpoints"]
templates_path = ["_templates"]

# API pages
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_numpy_docstring = True
# As written: what a verb returns, and the fields it sets as a definition list.
napoleon_custom_sections = ["Returns"]
typehints_defaults = "braces"
typehints_document_rtype = False
typehints_use_signature_return = True
always_use_bars_union = True

# Text
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "alpha"
bibtex_reference_style = "author_year"

# Without a network the inventories of the other projects cannot be fetched.
intersphinx_mapping = (
    {}
    if os.environ.get("SAGEFM_DOCS_OFFLINE")
    else {
        "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
        "matplotlib": ("https://matplotlib.org/stable/", None),
        "mudata": ("https://mudata.readthedocs.io/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "pandas": ("https://pandas.pydata.org/docs/", None),
        "python": ("https://docs.python.org/3/", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
        "scipy": ("https://docs.scipy.org/doc/scipy/", None),
        "spatialdata": ("https://spatialdata.scverse.org/en/stable/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
    }
)

html_theme = "sphinx_book_theme"
html_title = "sagefm"
html_static_path = ["_static"]
html_theme_options = {"show_navbar_depth": 1}


def returns_as_written(_app: Sphinx, _what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Take out the colon that sphinx-autodoc-typehints puts under "Returns" for napoleon's list of values."""
    for i in range(2, len(lines)):
        if lines[i] == ":" and lines[i - 2] == "Returns":
            del lines[i]
            return


def write_cli_help(app: Sphinx) -> None:
    """Write the help of every command where cli.md includes it."""
    parts = []
    root = click.Context(main, info_name="sagefm", max_content_width=100)
    for name in main.list_commands(root):
        command = main.get_command(root, name)
        if command is not None and not command.hidden:
            text = command.get_help(click.Context(command, info_name=name, parent=root, max_content_width=100))
            parts.append(f"## `sagefm {name}`\n\n```text\n{text}\n```\n")
    path = Path(app.srcdir) / "generated" / "cli_help.inc"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(parts), encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Connect what stands above."""
    app.connect("builder-inited", write_cli_help)
    # After sphinx-autodoc-typehints (499 too, but connected before) and before napoleon (500).
    app.connect("autodoc-process-docstring", returns_as_written, priority=499)
