"""Pages, or parts of them, that are made when the documentation is built.

Tables of keys, arguments and values, and the help of the commands, from the code; the tutorials, from their notebooks.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
import textwrap
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pandas as pd
import yaml
from fields import Field, fields, shared_arguments

from sagefm import _constants
from sagefm.cli import main

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]

#: Predictors of `_static/recovery.csv`, by the names that the model card gives them.
PREDICTORS = {
    "mean of the 14 neighbors": "neighborhood",
    "mean of the 15 most similar spots (kNN smoothing)": "kNN",
    "diffusion over similar spots (as MAGIC)": "diffusion",
    "filter on the graph of space and similarity": "joint filter",
    "Poisson factor model of the section's other spots": "factors",
    "20 PCs of the section's other spots, ridge 1": "PCA of section, ridge 1",
    "the same, ridge 100": "PCA of section, ridge 100",
    "20 PCs of other donors, with the neighbors', ridge 1": "PCA of corpus and around, ridge 1",
    "profile of other donors": "profile",
    "published architecture, same sections": "published",
    "**default**, the network as trained": "network, as trained",
    "factors by fold alone": "factors alone",
    "leave-one-out ridge alone": "ridge alone",
    "the gene at the neighbors, shrunk, alone": "neighbors alone",
    "`tl.impute` without a network (`model=None`)": "tl.impute, model=None",
    "**`tl.impute`**": "tl.impute",
}
#: The same of spots whose genes are all hidden.
ALL_HIDDEN = {
    "mean of the 14 neighbors": "neighborhood",
    "filter on the spatial graph": "joint filter",
    "20 PCs of other donors, of the neighbors, ridge 1": "PCA of corpus and around, ridge 1",
    "**default**, the network as trained": "network, as trained",
    "filtered factors of the surroundings alone": "surroundings alone",
    "`tl.impute` without a network (`model=None`)": "tl.impute, model=None",
    "**`tl.impute`**": "tl.impute",
}
KEYS = ("r", "pooled_d2")
#: Donors of the two tables of the model card.
DONORS = (
    {"her2st C": "her2st_C", "her2st G": "her2st_G", "heart CN74": "heart_CN74", "DLPFC Br8100": "Br8100"},
    {"synovium RA4": "RA4", "thyroid": "thyroid_visium_aitd_PX0994", "hearts of Asp 2019": "heart_asp2019"},
)

#: Values of `_constants.py` that a user meets.
CONSTANTS = ("N_SPOTS", "MIN_COVERAGE", "MIN_GENES", "LOW_COVERAGE", "UNSURE", "UNLABELLED", "PROFILE_PRIOR")


def write_pages(app: Sphinx) -> None:
    """Write what the pages include, and the tutorials."""
    folder = Path(app.srcdir) / "generated"
    folder.mkdir(exist_ok=True)
    for part in (keys, arguments, constants, cli_help, meta, recovery, all_hidden, intervals, tutorials):
        (folder / f"{part.__name__}.inc").write_text(part(), encoding="utf-8")
    copies = Path(app.srcdir) / "tutorials"
    shutil.rmtree(copies, ignore_errors=True)
    copies.mkdir()
    for notebook in notebooks():
        # A page lies beside the folder of its copy, and in docs beside that of the notebook.
        text = notebook.read_text(encoding="utf-8").replace("](../docs/", "](../")
        (copies / notebook.name).write_text(text, encoding="utf-8")


def keys() -> str:
    """Return what the verbs write as a list of definitions: keys, the verbs that write them, and what they hold."""
    entries: dict[tuple[str, str], list[Field]] = {}
    for field in fields():
        entries.setdefault((field.verb, field.text), []).append(field)
    verbs: dict[tuple[str, str], list[str]] = {}
    for (verb, text), written in entries.items():
        argument = next((f" (by *{field.arguments[0]}*)" for field in written if field.arguments), "")
        names = ", ".join(f"``{field}``" for field in written)
        verbs.setdefault((names, text), []).append(f":func:`{verb} <sagefm.{verb}>`{argument}")
    definitions = []
    for (names, text), by in verbs.items():
        content = f"{', '.join(by)}:\n{text}"
        definitions.append(f"{names}\n{textwrap.indent(content, '    ')}\n")
    return "\n".join(definitions)


def arguments() -> str:
    """Return the table of arguments that several verbs share."""
    rows = []
    for argument in shared_arguments():
        required = [verb for verb, default in argument.defaults.items() if default is inspect.Parameter.empty]
        note = f" Required by :func:`~sagefm.{required[0]}`." if required else ""
        rows.append([f"``{argument.name}``", f"``{argument.defaults['tl.embed']!r}``", argument.text + note])
    return table(["argument", "default", "meaning"], rows, widths=(20, 15, 65))


def constants() -> str:
    """Return the table of values that are no argument."""
    source = inspect.getsource(_constants)
    rows = []
    for name in CONSTANTS:
        comment = re.search(rf"((?:^#: .+\n)+){name}:", source, flags=re.MULTILINE)
        if comment is None:
            raise ValueError(f"{name} has no comment in _constants.py")
        text = " ".join(line.removeprefix("#: ") for line in comment[1].splitlines())
        rows.append([f"``{getattr(_constants, name)!r}``", text])
    return table(["value", "meaning"], rows, widths=(30, 70))


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, widths: Sequence[int]) -> str:
    """Return a list-table in reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {' '.join(map(str, widths))}", ""]
    for row in (header, *rows):
        for i, cell in enumerate(row):
            first, *rest = textwrap.dedent(cell).splitlines() or [""]
            lines.append(f"   {'*' if i == 0 else ' '} - {first}".rstrip())
            lines += [f"       {line}".rstrip() for line in rest]
    return "\n".join(lines) + "\n"


def cli_help() -> str:
    """Return the help of every command, in Markdown."""
    parts = []
    root = click.Context(main, info_name="sagefm", **main.context_settings)
    for name in main.list_commands(root):
        command = main.get_command(root, name)
        if command is not None and not command.hidden:
            text = command.get_help(click.Context(command, info_name=name, parent=root))
            parts.append(f"## `sagefm {name}`\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def recovery() -> str:
    """Return the tables of recovered genes, in Markdown; of predictors with a positive D2, the best of a column is bold."""
    measured = pd.read_csv(ROOT / "docs" / "_static" / "recovery.csv")
    measured = measured[measured["n_hidden"] == 1].set_index(["donor", "predictor"])
    tables = []
    for donors in DONORS:
        columns = []
        for donor in donors.values():
            found = measured.loc[donor].loc[list(PREDICTORS.values())]
            for key, share in zip(KEYS, ("r_ceiling", None), strict=True):
                texts = found[key].map(lambda value: decimals(value, 3))
                best = texts[found.loc[found["pooled_d2"] > 0, key].idxmax()]
                last = decimals(found.loc["tl.impute", share], 2) if share else ""
                columns.append([f"**{text}**" if text == best else text for text in texts] + [last])
        header = ["predictor", *(cell for donor in donors for cell in (f"{donor}: r", "D2"))]
        labels = [*PREDICTORS, "share of the noise ceiling (`tl.impute`)"]
        rows = [header, ["---"] * len(header), *zip(labels, *columns, strict=True)]
        tables.append("".join(f"| {' | '.join(row)} |\n" for row in rows))
    return "\n".join(tables)


def all_hidden() -> str:
    """Return the table of spots whose genes are all hidden, in Markdown."""
    measured = pd.read_csv(ROOT / "docs" / "_static" / "recovery.csv")
    measured = measured[measured["n_hidden"] == 3].set_index(["predictor", "donor"])
    donors = {label: donor for part in DONORS for label, donor in part.items()}
    rows = [["predictor", *(cell for label in donors for cell in (f"{label}: r", "D2"))]]
    rows.append(["---"] * len(rows[0]))
    for label, predictor in ALL_HIDDEN.items():
        found = measured.loc[predictor]
        rows.append([label, *(decimals(found.loc[donor, key], 3) for donor in donors.values() for key in KEYS)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def intervals() -> str:
    """Return the table of what intervals cover, in percent, in Markdown."""
    measured = pd.read_csv(ROOT / "docs" / "_static" / "coverage.csv")
    rows = [["", *(f"{level:.0%}" for level in measured["level"].unique())]]
    rows.append(["---"] * len(rows[0]))
    for group, of_group in measured.groupby("group", sort=False):
        cells = [
            f"{100 * row['covered mean']:.1f} ({100 * row['covered min']:.1f} to {100 * row['covered max']:.1f})"
            for _, row in of_group.iterrows()
        ]
        rows.append([str(group), *cells])
    whole = measured[measured["group"] == "all"]
    rows.append(["all, ends counted in full", *(f"{100 * value:.1f}" for value in whole["covered_plain mean"])])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def decimals(value: float, digits: int) -> str:
    """Return a number without the zero before its point."""
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.{digits}f}")


def notebooks() -> list[Path]:
    """Return the tutorials in order."""
    return sorted((ROOT / "tutorials").glob("*.ipynb"))


def tutorials() -> str:
    """Return the list of the tutorials, each with its title and the first paragraph under it, in Markdown."""
    entries = []
    for notebook in notebooks():
        first = json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]["source"]
        title, summary = "".join(first).removeprefix("# ").split("\n\n")[:2]
        entries.append(f"[{title}](tutorials/{notebook.name})\n: {' '.join(summary.split())}\n")
    return "\n".join(entries)


def meta() -> str:
    """Return the entry of the package in the list of the scverse ecosystem, as YAML in Markdown."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    entry = {
        "name": project["name"],
        "description": project["description"] + ".",
        "project_home": "https://github.com/OWNER/sagefm",
        "documentation_home": "https://sagefm.readthedocs.io/en/stable/",
        "tutorials_home": "https://sagefm.readthedocs.io/en/stable/tutorials.html",
        "install": {"pypi": project["name"]},
        "license": project["license"],
        "tags": project["keywords"],
        "version": project["version"],
        "contact": ["CONTACT"],
        "test_command": 'pip install ".[test,interop]" && pytest',
        "category": "ecosystem",
    }
    return f"```yaml\n{yaml.safe_dump(entry, sort_keys=False, width=100)}```\n"


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the parts before the pages are read."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
