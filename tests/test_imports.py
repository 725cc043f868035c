"""Structure: what imports what, how long it takes, and the form of the public names."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import sagefm

SOURCE = Path(sagefm.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
PACKAGES = ["data", "datasets", "metrics", "model", "module", "pl", "pp", "tl"]
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))


def in_a_new_process(code: str, *arguments: str) -> dict:
    """Run code that prints one line of JSON, and return what it printed."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# In new processes


def test_import_is_quick_and_light():
    code = """
import json, sys, time
start = time.perf_counter()
import sagefm
seconds = time.perf_counter() - start
names = dir(sagefm)
print(json.dumps({"seconds": seconds, "loaded": sorted(sys.modules), "names": names}))
"""
    runs = [in_a_new_process(code) for _ in range(3)]
    assert min(run["seconds"] for run in runs) < 0.3
    heavy = {"torch", "scvi", "squidpy", "scanpy", "anndata", "numpy", "pandas", "matplotlib", "torch_geometric"}
    heavy |= {"huggingface_hub"}
    assert not heavy & set(runs[0]["loaded"])
    assert set(PACKAGES) - {"data", "module"} < set(runs[0]["names"])


def test_a_first_call_says_nothing():
    """Not even what squidpy warns of on import; old packages may announce deprecations of their own."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c"]
    code = "import sagefm; sagefm.tl.embed(sagefm.datasets.synovium())"
    done = subprocess.run([*command, code], capture_output=True, text=True, check=True)
    assert not done.stdout + done.stderr


def test_a_checkpoint_is_used_without_the_training_stack(section, folders, tmp_path):
    """Nor does a stored graph need squidpy; results are those of this process."""
    sagefm.tl.embed(section, folders["default"])
    sagefm.pp.spatial_neighbors(section)
    expected = section.obsm.pop("X_sagefm")
    section.write_h5ad(tmp_path / "section.h5ad")
    code = """
import json, sys
import anndata, sagefm
adata = anndata.read_h5ad(sys.argv[1])
sagefm.tl.embed(adata, sys.argv[2])
sagefm.tl.perturb(adata, sys.argv[2], sources=["DBI"], targets=["MVP"])
sagefm.pp.match_genes(adata, model=sys.argv[2])
# The section's factor model is scikit-learn's.
assert "sklearn" not in sys.modules
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
    np.testing.assert_allclose(found["latent"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("package", PACKAGES)
def test_subpackages_import_without_the_training_stack(package):
    code = f"import json, sys, sagefm.{package}; print(json.dumps(sorted(sys.modules)))"
    loaded = in_a_new_process(code)
    assert not {"scvi", "lightning", "squidpy", "torch_geometric", "scanpy", "matplotlib"} & set(loaded)
    if package in ("data", "datasets", "metrics", "pl"):
        assert "torch" not in loaded


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


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports at run time; imports for type checkers alone do not count."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def test_module_knows_no_scverse_package():
    outside = set()
    for path in (SOURCE / "module").rglob("*.py"):
        outside |= {name.split(".")[0] for name in imports(path)}
    assert outside <= {"__future__", "dataclasses", "numpy", "sagefm", "sklearn", "torch", "torch_geometric", "typing"}


@each_file
def test_no_private_module_of_another_package(path):
    for name in imports(path):
        parts = name.split(".")
        private = [part for part in parts if part.startswith("_") and not part.startswith("__")]
        assert parts[0] == "sagefm" or not private, name


@each_file
def test_length(path):
    assert len(path.read_text().splitlines()) <= 400


@each_file
def test_future_annotations_and_docstring(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    assert "from __future__ import annotations" in path.read_text()


@each_file
def test_no_assert_no_pickle_no_print(path):
    tree = ast.parse(path.read_text())
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert not {"pickle", "cloudpickle", "dill", "joblib"} & {name.split(".")[0] for name in imports(path)}
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not {"torch.save", "eval", "exec"} & calls
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            # The authors' own file, and tensors alone.
            assert path.name == "_authors.py"
            assert {k.arg: ast.unparse(k.value) for k in node.keywords}["weights_only"] == "True"
    assert "print" not in calls
    assert not [call for call in calls if call.startswith(("np.random.", "random.")) and "default_rng" not in call]
    assert "logging.basicConfig" not in calls


@each_file
def test_nothing_is_done_on_import(path):
    """No warning filters, logging set-up or global state when a file is imported, but for one hint to torch."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            hint = path.name == "__init__.py" and "THP_MEM_ALLOC_ENABLE" in ast.unparse(node)
            assert path.name == "__main__.py" or hint, ast.unparse(node)


# The public names


def public_callables():
    for package in ["errors", *sorted(set(PACKAGES) - {"data", "module"})]:
        module = import_module(f"sagefm.{package}")
        for name in module.__all__:
            found = getattr(module, name)
            yield f"{package}.{name}", found
            # The constructor of a dataclass is written by Python, not by us.
            if inspect.isclass(found) and not dataclasses.is_dataclass(found):
                for cls in [cls for cls in found.__mro__ if cls.__module__.startswith("sagefm.")]:
                    for method, value in vars(cls).items():
                        function = getattr(value, "__func__", value)
                        if inspect.isfunction(function) and (not method.startswith("_") or method == "__init__"):
                            yield f"{package}.{name}.{method}", function


CALLABLES = dict(public_callables())
each_callable = pytest.mark.parametrize("name", CALLABLES)


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


@each_callable
def test_positional_parameters(name):
    """At most three, and booleans by keyword."""
    function = CALLABLES[name]
    if inspect.isclass(function):
        return
    parameters = inspect.signature(function).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    positional = [p for p in positional if p.name not in ("self", "cls")]
    assert len(positional) <= 3
    for parameter in positional:
        assert not isinstance(parameter.default, bool)
        assert str(parameter.annotation) not in ("bool", "bool | None")


def test_errors_are_built_in_errors_too():
    from sagefm import errors

    for name in errors.__all__:
        error = getattr(errors, name)
        assert issubclass(error, errors.SagefmError)
        assert error is errors.SagefmError or len(error.__mro__) > 4
        assert str(error("a message")) == "a message"
