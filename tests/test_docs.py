"""The documentation says what the code does: keys that are written, keys that pages name, examples that run."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import sagefm
from sagefm.cli import main

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted([*DOCS.glob("*.md"), DOCS.parent / "README.md"])

#: Keys that bear the name of the package; others are a user's.
KEY = re.compile(r'\b(obs|var|obsm|layers|obsp|uns)\["(\w*sagefm\w*)"\](?:\["(\w+)"\])?')
EXAMPLE = re.compile(r"^```(python|bash)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def fields():
    """The module of the documentation that reads fields from docstrings."""
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        import fields
    finally:
        sys.path.remove(str(DOCS / "_ext"))
    return fields


def written(adata, slots):
    """Return keys by slot; of what the package keeps in ``uns``, the keys within."""
    found = {(slot, key) for slot in slots for key in getattr(adata, slot) if key is not None and slot != "uns"}
    for key, value in adata.uns.items():
        nested = key in ("sagefm", "sagefm_perturb", "sagefm_network")
        found |= {("uns", key, inner) for inner in value} if nested else {("uns", key)}
    return found


def test_fields_are_those_written(fields, section, sections, folders):
    """Each verb, on a fresh table: the keys that appear are those of its docstring, no more and no fewer."""
    model, gene = folders["default"], section.var_names[0]
    less = section[:, 1:].copy()
    labelled = sections[sections.obs["library"] == "section1"].copy()
    sagefm.tl.embed(labelled, model)
    embedded = section.copy()
    sagefm.tl.embed(embedded, model)
    pair = {"sources": [section.var_names[1]], "targets": [section.var_names[2]]}
    calls = {
        "pp.spatial_neighbors": (section, {}),
        "pp.match_genes": (section, {"model": model}),
        "tl.embed": (section, {"model": model}),
        "tl.domains": (section, {"n_domains": 3}),
        "tl.impute": (less, {"model": model, "genes": [gene, section.var_names[1]], "interval": 0.8}),
        "tl.perturb": (section, {"model": model, **pair, "groupby": "domain", "per_spot": True}),
        "tl.regulatory_network": (section, {**pair, "null": "rotation", "fields": True}),
        "tl.annotate": (embedded, {"reference": labelled, "label_key": "domain"}),
    }
    documented = {name: [field for field in fields.fields() if field.verb == name] for name in calls}
    assert sum(map(len, documented.values())) == len(fields.fields())
    for name, (table, kwargs) in calls.items():
        adata = table.copy()
        before = written(adata, fields.SLOTS)
        fields.verbs()[name](adata, **kwargs)
        expected = {(field.slot, *field.path) for field in documented[name]}
        assert written(adata, fields.SLOTS) - before == expected, name


def test_api_lists_every_public_name():
    listed = re.findall(r"^   ((?:\w+)\.\w+)$", (DOCS / "api.md").read_text(), flags=re.MULTILINE)
    packages = [name for name in sagefm.__all__ if name not in ("__version__", "errors", "report")]
    assert sorted(listed) == sorted(
        f"{package}.{name}" for package in packages for name in getattr(sagefm, package).__all__
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_keys_that_there_are(page, fields):
    """Every key of sagefm in the text or an example is one that a verb writes."""
    known = {(field.slot, *field.path[:depth]) for field in fields.fields() for depth in (1, 2)}
    for slot, key, inner in KEY.findall(page.read_text()):
        assert {(slot, key), (slot, key, inner)} & known, f'{slot}["{key}"]'


def test_readme_states_what_was_measured():
    """The table of hidden genes is that of the file which the model card is made from."""
    measured = pd.read_csv(DOCS / "_static" / "recovery.csv")
    measured = measured[measured["n_hidden"] == 1].set_index(["predictor", "donor"])
    predictors = {
        "mean of the 14 neighbors": "neighborhood",
        "20 principal components of other donors": "PCA of corpus and around, ridge 1",
        "Poisson factor model of the section's other spots": "factors",
        "**`sagefm.tl.impute`**": "tl.impute",
    }
    donors = [["her2st_C", "her2st_G"], ["heart_CN74"], ["Br8100"], ["RA4"], ["thyroid_visium_aitd_PX0994"]]
    text = (DOCS.parent / "README.md").read_text()
    for label, predictor in predictors.items():
        (cells,) = re.findall(rf"^\| {re.escape(label)} \|(.*)\|$", text, flags=re.MULTILINE)
        stated = [float(cell.strip(" *")) for cell in cells.split("|")]
        expected = [measured.loc[predictor].loc[of, key].mean() for of in donors for key in ("r", "pooled_d2")]
        np.testing.assert_allclose(stated, expected, atol=0.00055)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quickstart", "inputs", "report", "guide", "faq", "migration", "couplings"])
def test_examples_of_a_page_run(name, tmp_path, monkeypatch):
    """One after the other, in an empty folder: Python as one program, and the commands of sagefm but for the demo."""
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    page, program = DOCS / f"{name}.md", {}
    for language, code in EXAMPLE.findall(page.read_text()):
        if language == "python":
            exec(compile(code, page.name, "exec"), program)
            plt.close("all")
            continue
        for _, *arguments in map(shlex.split, code.splitlines()):
            if arguments != ["demo"]:
                result = CliRunner().invoke(main, arguments, catch_exceptions=False)
                assert not result.exit_code, result.output
    assert program
