"""Pages, or parts of them, that the code writes: tables of keys, arguments and values, and the help of the commands."""

from __future__ import annotations

import inspect
import re
import textwrap
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml
from fields import fields, shared_arguments

from sagefm import _constants
from sagefm.cli import main

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sphinx.application import Sphinx

#: Values of `_constants.py` that a user meets.
CONSTANTS = ("N_SPOTS", "MIN_COVERAGE", "MIN_GENES", "UNSURE", "UNLABELLED", "PROFILE_PRIOR")


def write_pages(app: Sphinx) -> None:
    """Write what the pages include."""
    folder = Path(app.srcdir) / "generated"
    folder.mkdir(exist_ok=True)
    for part in (keys, arguments, constants, cli_help, meta):
        (folder / f"{part.__name__}.inc").write_text(part(), encoding="utf-8")


def keys() -> str:
    """Return the table of what the verbs write."""
    rows = []
    for field in fields():
        named = f", by *{field.arguments[0]}*" if field.arguments else ""
        rows.append([f"``{field}``", f":func:`~sagefm.{field.verb}`{named}", field.text])
    return table(["key", "written by", "content"], rows, widths=(30, 22, 48))


def arguments() -> str:
    """Return the table of arguments that several verbs share."""
    rows = []
    for argument in shared_arguments():
        by_default: dict[str, list[str]] = {}
        for verb, default in argument.defaults.items():
            shown = "required" if default is inspect.Parameter.empty else f"``{default!r}``"
            by_default.setdefault(shown, []).append(verb)
        if len(by_default) == 1:
            default = next(iter(by_default))
        else:
            default = "; ".join(f"{value} ({', '.join(verbs)})" for value, verbs in by_default.items())
        rows.append([f"``{argument.name}``", default, ", ".join(argument.defaults), argument.text])
    return table(["argument", "default", "of", "meaning"], rows, widths=(15, 22, 21, 42))


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
    root = click.Context(main, info_name="sagefm", max_content_width=100)
    for name in main.list_commands(root):
        command = main.get_command(root, name)
        if command is not None and not command.hidden:
            text = command.get_help(click.Context(command, info_name=name, parent=root, max_content_width=100))
            parts.append(f"## `sagefm {name}`\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def meta() -> str:
    """Return the entry of the package in the list of the scverse ecosystem, as YAML in Markdown."""
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    entry = {
        "name": project["name"],
        "description": project["description"] + ".",
        "project_home": "https://github.com/OWNER/sagefm",
        "documentation_home": "https://sagefm.readthedocs.io/en/stable/",
        "tutorials_home": "https://sagefm.readthedocs.io/en/stable/guide.html",
        "install": {"pypi": project["name"]},
        "license": project["license"],
        "tags": project["keywords"],
        "version": project["version"],
        "contact": ["CONTACT"],
        "test_command": 'pip install ".[test]" && pytest',
        "category": "ecosystem",
    }
    return f"```yaml\n{yaml.safe_dump(entry, sort_keys=False, width=100)}```\n"


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the parts before the pages are read."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
