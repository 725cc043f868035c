"""Docstrings of the public names: what each must say, and that its examples run."""

from __future__ import annotations

import dataclasses
import doctest
import inspect
import logging
import re
from importlib import import_module
from typing import Any

import pytest

import sagefm

PACKAGES = [name for name in sagefm.__all__ if not name.startswith("__") and name != "report"]
#: Examples that would load the authors' file, or write to the Hub.
NOT_RUN = {"model.load_published", "model.SAGEFM.push_to_hub", "model.push_to_hub"}


def public_names() -> dict[str, Any]:
    """Return every public function, class, method and property by name, `package.name` or `package.name.member`."""
    names: dict[str, Any] = {}
    for package in PACKAGES:
        module = import_module(f"sagefm.{package}")
        for name in module.__all__:
            value = names[f"{package}.{name}"] = getattr(module, name)
            if inspect.isclass(value):
                for cls in reversed([cls for cls in value.__mro__ if cls.__module__.startswith("sagefm.")]):
                    for member, raw in vars(cls).items():
                        function = getattr(raw, "__func__", raw)
                        if not member.startswith("_") and (inspect.isfunction(function) or isinstance(raw, property)):
                            names[f"{package}.{name}.{member}"] = function
    return {**names, "report": sagefm.report}


NAMES = public_names()
ERRORS = {name for name, value in NAMES.items() if inspect.isclass(value) and issubclass(value, Exception)}
FUNCTIONS = [name for name, value in NAMES.items() if inspect.isfunction(value)]
CLASSES = [name for name, value in NAMES.items() if inspect.isclass(value) and name not in ERRORS]


def own_docstring(name: str) -> str:
    # Of its own: a class of ours does not pass with the docstring of its base.
    value = NAMES[name]
    return inspect.cleandoc((vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__) or "")


def sections(name: str) -> dict[str, str]:
    """Return the sections of a numpy docstring by title."""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}$", own_docstring(name), flags=re.MULTILINE)
    return {title: text.strip("\n") for title, text in zip(parts[1::2], parts[2::2], strict=True)}


def parameters(name: str) -> list[str]:
    value = NAMES[name]
    found = inspect.signature(value).parameters.values()
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [f"{stars.get(p.kind, '')}{p.name}" for p in found if p.name not in ("self", "cls")]


def described(text: str) -> list[str]:
    """Return the names that a Parameters section describes; some share a line."""
    return [name for line in text.splitlines() if line and line[0] != " " for name in line.split(", ")]


def test_summary():
    """One line, which ends as a sentence does."""
    offenders = []
    for name in NAMES:
        summary, _, rest = own_docstring(name).partition("\n")
        if not summary.endswith((".", ":")) or rest.split("\n")[0]:
            offenders.append(name)
    assert not offenders


def test_parameters():
    """Every parameter is described, and none that is not there."""
    offenders = []
    for name in [*FUNCTIONS, *CLASSES]:
        title = "Attributes" if dataclasses.is_dataclass(NAMES[name]) else "Parameters"
        if sorted(described(sections(name).get(title, ""))) != sorted(parameters(name)):
            offenders.append(name)
    assert not offenders


def test_result_and_errors():
    """What comes back, unless it is nothing; what is refused, where there is something to refuse."""
    returning = [n for n in FUNCTIONS if inspect.signature(NAMES[n]).return_annotation not in ("None", None)]
    assert not [name for name in returning if not sections(name).get("Returns")]
    assert not [name for name in FUNCTIONS if parameters(name) and not sections(name).get("Raises")]


def test_examples():
    """An example of its own; or, of a method, in that of its class."""
    offenders = []
    for name in [*FUNCTIONS, *CLASSES]:
        examples = sections(name).get("Examples", "")
        owner, _, member = name.rpartition(".")
        of_class = not examples and owner in CLASSES and f".{member}(" in sections(owner).get("Examples", "")
        own = ">>> " in examples and ("+SKIP" in examples) == (name in NOT_RUN)
        if not of_class and not own:
            offenders.append(name)
    assert not offenders


def doctests() -> dict[str, doctest.DocTest]:
    finder = doctest.DocTestFinder(recurse=False)
    values = {**NAMES, **{package: import_module(f"sagefm.{package}") for package in PACKAGES}}
    found = {name: test for name, value in values.items() for test in finder.find(value, name, globs={})}
    return {name: test for name, test in found.items() if test.examples}


@pytest.mark.parametrize("test", [pytest.param(test, id=name) for name, test in doctests().items()])
def test_examples_run(test, tmp_path, monkeypatch, caplog):
    """In an empty folder; files that an example writes are left there."""
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    # scvi-tools writes its notes to standard output.
    caplog.set_level(logging.WARNING, "scvi")
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    runner.run(test, out=report.append)
    plt.close("all")
    assert not runner.failures, "".join(report)
