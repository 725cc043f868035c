"""Structure: what imports what, and the form of the public names. ruff and import-linter check the rest."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sagefm
from tests import OTHER_KERNELS

SOURCE = Path(sagefm.__file__).parent
FILES = {str(path.relative_to(SOURCE)): path.read_text() for path in sorted(SOURCE.rglob("*.py"))}
TREES = {name: ast.parse(text) for name, text in FILES.items()}
PACKAGES = ["data", "datasets", "io", "metrics", "model", "module", "pl", "pp", "tl"]


def in_a_new_process(code: str, *arguments: str) -> Any:
    """Run code that prints one line of JSON, and return what it printed."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# In new processes


def test_import_loads_nothing_else():
    """Nor do the names that it lists; what they need is loaded with the first of them that is used."""
    code = """
import json, sys
before = set(sys.modules)
import sagefm
names = dir(sagefm)
print(json.dumps({"loaded": sorted(set(sys.modules) - before), "names": names}))
"""
    answer = in_a_new_process(code)
    assert {name.split(".")[0] for name in answer["loaded"]} - sys.stdlib_module_names == {"sagefm"}
    assert set(PACKAGES) - {"data", "module"} < set(answer["names"])


def test_a_first_call_says_nothing():
    """Old packages may announce deprecations of their own."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c"]
    code = "import sagefm; sagefm.tl.embed(sagefm.datasets.synovium())"
    done = subprocess.run([*command, code], capture_output=True, text=True, check=True)
    assert not done.stdout + done.stderr


def test_a_checkpoint_is_used_without_the_training_stack(section, folders, tmp_path):
    """Nor does the graph need squidpy; results are those of this process."""
    section.write_h5ad(tmp_path / "section.h5ad")
    sagefm.tl.embed(section, folders["default"])
    expected = section.obsm["X_sagefm"]
    code = """
import json, sys
import anndata, sagefm
adata = anndata.read_h5ad(sys.argv[1])
sagefm.tl.embed(adata, sys.argv[2])
sagefm.pp.match_genes(adata, model=sys.argv[2])
# The section's factor model and the components of couplings are scikit-learn's. Statistics take half a second.
assert not {"sklearn", "scipy.stats"} & set(sys.modules)
sagefm.tl.perturb(adata, sys.argv[2], sources=["DBI"], targets=["MVP"])
sagefm.tl.impute(adata, sys.argv[2], genes=["DBI"])
print(json.dumps({"loaded": sorted(sys.modules), "latent": adata.obsm["X_sagefm"].tolist()}))
"""
    found = in_a_new_process(code, str(tmp_path / "section.h5ad"), str(folders["default"]))
    unwanted = {
        "scvi",
        "lightning",
        "pytorch_lightning",
        "squidpy",
        "torch_geometric",
        "scanpy",
        "spatialdata",
        "mudata",
        "huggingface_hub",
    }
    assert not unwanted & set(found["loaded"])
    assert not {"matplotlib.pyplot", "liana"} & set(found["loaded"])
    np.testing.assert_allclose(found["latent"], expected, **OTHER_KERNELS)


def test_subpackages_import_without_the_training_stack():
    """Those that need no torch first, which does not load it."""
    code = """
import json, sys
import sagefm.data, sagefm.datasets, sagefm.io, sagefm.metrics, sagefm.pl
light = sorted(sys.modules)
import sagefm.model, sagefm.module, sagefm.pp, sagefm.tl
print(json.dumps([light, sorted(sys.modules)]))
"""
    light, loaded = in_a_new_process(code)
    assert "torch" not in light
    assert not {"scvi", "lightning", "squidpy", "torch_geometric", "scanpy", "matplotlib"} & set(loaded)


def test_networks_and_arrays_need_no_scverse_package():
    """A machine with a GPU may have torch, numpy and scipy alone."""
    code = """
import json, sys
import sagefm.module._center, sagefm.module._losses, sagefm.module._pooled
import sagefm.training._sections, sagefm.data._counts
print(json.dumps(sorted(sys.modules)))
"""
    loaded = set(in_a_new_process(code))
    assert not {"anndata", "scanpy", "squidpy", "spatialdata", "mudata", "scvi", "lightning"} & loaded


# In the source


def imports(tree: ast.Module) -> set[str]:
    """Return the modules that a file imports at run time; imports for type checkers alone do not count."""
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped |= {id(inner) for statement in node.body for inner in ast.walk(statement)}
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and id(node) not in skipped:
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and id(node) not in skipped:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def test_module_knows_no_scverse_package():
    names = set().union(*(imports(tree) for file, tree in TREES.items() if file.startswith("module/")))
    outside = {name.split(".")[0] for name in names} - sys.stdlib_module_names
    assert outside <= {"numpy", "sagefm", "sklearn", "torch", "torch_geometric"}


def test_no_private_module_of_another_package():
    offenders = [
        f"{file}: {name}"
        for file, tree in TREES.items()
        for name in imports(tree)
        if not name.startswith("sagefm.") and any(part.startswith("_") for part in name.split(".")) and name[:2] != "__"
    ]
    assert not offenders


def test_files_are_short_and_say_what_they_hold():
    """Modules with a leading underscore need no docstring for a linter."""
    assert not [file for file, text in FILES.items() if len(text.splitlines()) > 400]
    assert not [file for file, tree in TREES.items() if not ast.get_docstring(tree)]


def test_only_tensors_are_loaded():
    """`torch.load` is called for the authors' own file alone, and executes nothing there."""
    calls = [
        (file, ast.unparse(node))
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert {file for file, _ in calls} == {"checkpoint/_authors.py"}
    assert not [call for _, call in calls if "weights_only=True" not in call]


def test_nothing_is_done_on_import():
    """No warning filters, logging set-up or global state when a file is imported, but for one hint to torch."""
    calls = [
        f"{file}: {ast.unparse(node)}"
        for file, tree in TREES.items()
        for node in tree.body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and not file.endswith("__main__.py")
    ]
    assert len(calls) == 1
    assert calls[0].startswith("__init__.py: ")
    assert "THP_MEM_ALLOC_ENABLE" in calls[0]


# The public names


def public_callables() -> Iterator[tuple[str, Callable[..., Any]]]:
    yield "report", sagefm.report
    for package in ["errors", *sorted(set(PACKAGES) - {"data", "module"})]:
        module = import_module(f"sagefm.{package}")
        for name in module.__all__:
            value = getattr(module, name)
            if not inspect.isclass(value):
                yield f"{package}.{name}", value
            # The constructor of a dataclass is written by Python, not by us.
            elif not dataclasses.is_dataclass(value):
                for cls in [cls for cls in value.__mro__ if cls.__module__.startswith("sagefm.")]:
                    for method, raw in vars(cls).items():
                        function = getattr(raw, "__func__", raw)
                        if inspect.isfunction(function) and (not method.startswith("_") or method == "__init__"):
                            yield f"{package}.{name}.{method}", function


def test_public_names_are_listed():
    for package in sorted(set(PACKAGES) - {"data", "module"}):
        module = import_module(f"sagefm.{package}")
        assert len(set(module.__all__)) == len(module.__all__)
        assert set(module.__all__) <= set(dir(module))
        with pytest.raises(AttributeError, match="no_such_name"):
            _ = module.no_such_name
    for name in sagefm.__all__:
        assert getattr(sagefm, name) is not None
    assert {"embed", "impute", "perturb"} <= set(sagefm.tl.__all__)
    assert {"match_genes", "spatial_neighbors"} <= set(sagefm.pp.__all__)


def test_positional_parameters():
    """At most three, and booleans by keyword."""
    offenders = []
    for name, function in public_callables():
        parameters = inspect.signature(function).parameters.values()
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        positional = [p for p in positional if p.name not in ("self", "cls")]
        booleans = [p for p in positional if isinstance(p.default, bool) or "bool" in str(p.annotation).split(" | ")]
        if len(positional) > 3 or booleans:
            offenders.append(name)
    assert not offenders


def test_errors_are_built_in_errors_too():
    from sagefm import errors

    for name in errors.__all__:
        error = getattr(errors, name)
        assert issubclass(error, errors.SagefmError)
        assert error is errors.SagefmError or len(error.__mro__) > 4
        assert str(error("a message")) == "a message"
