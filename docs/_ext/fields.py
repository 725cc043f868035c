"""What the verbs write and how they are called, read from their docstrings and signatures."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sagefm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: What stands before the definition list of fields in the docstring of a verb that writes into its table.
MARK = "Sets the following fields:\n\n"
#: Slots of a table, in the order in which they are listed.
SLOTS = ("obs", "var", "obsm", "layers", "obsp", "uns")
_HEADING = re.compile(r"^\w+\n-{3,}$", flags=re.MULTILINE)


@dataclass(frozen=True)
class Field:
    """A key that a verb writes.

    Attributes
    ----------
    verb
        Name of the verb, e.g. ``"tl.embed"``.
    slot
        ``"obsm"``, ...
    path
        The key, and the keys within it, with the verb's defaults.
    arguments
        Arguments of the verb that name the key.
    text
        What is written, in reStructuredText.
    """

    verb: str
    slot: str
    path: tuple[str, ...]
    arguments: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return self.slot + "".join(f'["{key}"]' for key in self.path)


def verbs() -> dict[str, Callable[..., Any]]:
    """Return the functions of ``sagefm.pp`` and ``sagefm.tl`` by name."""
    packages = {"pp": sagefm.pp, "tl": sagefm.tl}
    return {f"{name}.{verb}": getattr(package, verb) for name, package in packages.items() for verb in package.__all__}


def fields() -> list[Field]:
    """Return what all verbs write, in the order of the slots."""
    found = [field for name, verb in verbs().items() for field in _fields_of(name, verb)]
    return sorted(found, key=lambda field: SLOTS.index(field.slot))


def _fields_of(name: str, verb: Callable[..., Any]) -> Iterator[Field]:
    documentation = inspect.getdoc(verb) or ""
    if MARK not in documentation:
        return
    text = _HEADING.split(documentation.split(MARK, 1)[1], maxsplit=1)[0]
    defaults = {parameter.name: parameter.default for parameter in inspect.signature(verb).parameters.values()}
    for entry in re.split(r"\n+(?=``)", text.strip()):
        term, _, description = entry.partition("\n")
        for literal in re.findall(r"``adata\.(.+?)``(?:, |$)", term):
            node, keys, arguments = ast.parse(literal, mode="eval").body, [], []
            while isinstance(node, ast.Subscript):
                expression = ast.Expression(node.slice)
                keys.append(str(eval(compile(expression, name, "eval"), {}, defaults)))
                arguments += [n.id for n in ast.walk(expression) if isinstance(n, ast.Name)]
                node = node.value
            if not isinstance(node, ast.Name) or node.id not in SLOTS:
                raise ValueError(f"{name}: {literal!r} is no key of a table")
            yield Field(name, node.id, tuple(reversed(keys)), tuple(arguments), inspect.cleandoc(description))


@dataclass(frozen=True)
class Argument:
    """An argument that several verbs take.

    Attributes
    ----------
    name
        Its name.
    defaults
        Its default, by verb; empty, as of :mod:`inspect`, where a verb asks for it.
    text
        What it means, in reStructuredText.
    """

    name: str
    defaults: dict[str, Any]
    text: str


def shared_arguments() -> list[Argument]:
    """Return the optional arguments that ``tl.embed`` shares with other verbs, but for those that name what is written."""
    functions = verbs()
    signatures = {verb: inspect.signature(function).parameters for verb, function in functions.items()}
    texts = _described(inspect.getdoc(functions["tl.embed"]) or "")
    naming = {name for field in fields() for name in field.arguments}
    found = []
    for name, text in texts.items():
        defaults = {verb: parameters[name].default for verb, parameters in signatures.items() if name in parameters}
        if len(defaults) > 1 and name not in naming and defaults["tl.embed"] is not inspect.Parameter.empty:
            found.append(Argument(name, defaults, text))
    return found


def _described(documentation: str) -> dict[str, str]:
    """Return the descriptions of a Parameters section; of arguments that share one, nothing."""
    section = _HEADING.split(documentation.split("Parameters\n----------\n", 1)[1], maxsplit=1)[0]
    entries = [entry.partition("\n") for entry in re.split(r"\n(?=\S)", section.strip())]
    return {name: inspect.cleandoc(text) for name, _, text in entries if ", " not in name}
