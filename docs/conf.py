"""Sphinx configuration."""

from __future__ import annotations

import os
import sys
import warnings
from importlib.metadata import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import sagefm
from sagefm.checkpoint._authors import PUBLISHED
from sagefm.data._genes import published_vocabulary
from sagefm.module._config import NetworkConfig
from sagefm.training._config import TrainingConfig

if TYPE_CHECKING:
    from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

# sphinx-autodoc-typehints 3.6 with Sphinx 9, once for each parameter.
warnings.filterwarnings("ignore", message=".*set_application.*")

project = "sagefm"
author = "The sagefm developers"
project_copyright = f"2026, {author}"
release = version = sagefm.__version__

extensions = [
    "generated",  # of docs/_ext
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",
    "sphinx_copybutton",
    "sphinx_design",
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
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "substitution"]
# Facts that stand in the code, named in the text as {{ name }}.
_network = NetworkConfig.of("center_neighborhood", n_genes=1)
_hidden_share = TrainingConfig.of(_network).mask_fraction
myst_substitutions = {
    "default_widths": " and ".join(map(str, _network.hidden)),
    "default_scale": f"{_network.scale:,.0f}",
    "default_masks": f"{_hidden_share[0]:.0%} to {_hidden_share[1]:.0%}".replace("%", " %"),
    "python": metadata("sagefm")["Requires-Python"].removeprefix(">="),
    "published_repository": f"[their repository]({PUBLISHED.repository})",
    "published_url": f"<{PUBLISHED.url}>",
    "published_sha256": f"`{PUBLISHED.sha256}`",
    "published_bytes": f"{PUBLISHED.size_bytes:,}",
    "published_megabytes": round(PUBLISHED.size_bytes / 1e6),
    "published_genes": f"{len(published_vocabulary()):,}",
}
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

# A name of sagefm that a docstring links to must be there; those of other projects are links only with a network.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!sagefm\.).*"),
    ("py:class", r"sagefm\.(module\._config\.NetworkConfig|data\._report\.Report)"),
]

man_pages = [("cli", "sagefm", "embed, impute and perturb Visium sections", [author], 1)]

html_theme = "sphinx_book_theme"
html_title = "sagefm"
html_static_path = ["_static"]
html_theme_options = {"show_navbar_depth": 1, "navbar_persistent": []}


def returns_as_written(_app: Sphinx, _what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Take out the colon that sphinx-autodoc-typehints puts under "Returns" for napoleon's list of values."""
    for i in range(2, len(lines)):
        if lines[i] == ":" and lines[i - 2] == "Returns":
            del lines[i]
            return


def setup(app: Sphinx) -> None:
    """Connect what stands above."""
    # After sphinx-autodoc-typehints (499 too, but connected before) and before napoleon (500).
    app.connect("autodoc-process-docstring", returns_as_written, priority=499)
