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

PACKAGES = [name for name in sagefm.__all__ if not name.startswith("__")]
#: Examples that would load the authors' file, or write to the Hub.
NOT_RUN = {"model.load_published", "model.SAGEFM.push_to_hub", "model.push_to_hub"}


def public_names() -> dict[str, Any]:
    """Return every public function, class, method and property by name, `package.name` or `package.name.member`."""
    found: dict[str, Any] = {}
    for package in PACKAGES:
        module = import_module(f"sagefm.{package}")
        for name in module.__all__:
            value = found[f"{package}.{name}"] = getattr(module, name)
            if inspect.isclass(value):
                for cls in reversed([cls for cls in value.__mro__ if cls.__module__.startswith("sagefm.")]):
                    for member, raw in vars(cls).items():
                        function = getattr(raw, "__func__", raw)
                        if not member.startswith("_") and (inspect.isfunction(function) or isinstance(raw, property)):
                            found[f"{package}.{name}.{member}"] = function
    return found


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


@pytest.mark.parametrize("name", NAMES)
def test_summary(name):
    """One line, which ends as a sentence does."""
    summary, _, rest = own_docstring(name).partition("\n")
    assert summary
    assert summary[-1] in ".:"
    assert not rest.split("\n")[0]


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES])
def test_parameters(name):
    """Every parameter is described, and none that is not there."""
    title = "Attributes" if dataclasses.is_dataclass(NAMES[name]) else "Parameters"
    assert sorted(described(sections(name).get(title, ""))) == sorted(parameters(name))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_result_and_errors(name):
    """What comes back, unless it is nothing; what is refused, where there is something to refuse."""
    if inspect.signature(NAMES[name]).return_annotation not in ("None", None):
        assert sections(name).get("Returns")
    if parameters(name):
        assert sections(name).get("Raises")


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES])
def test_examples(name):
    """An example of its own; or, of a method, in that of its class."""
    examples = sections(name).get("Examples", "")
    if not examples and name.count(".") == 2:
        owner, _, member = name.rpartition(".")
        assert f".{member}(" in sections(owner)["Examples"]
        return
    assert ">>> " in examples
    assert ("+SKIP" in examples) == (name in NOT_RUN)


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
