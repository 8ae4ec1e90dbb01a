"""How the package is built: imports point down, and torch comes in through one door.

Every import counts, wherever it stands: at the top, in a function, under TYPE_CHECKING, or as a module's name in a
table for import_module.
"""

import ast
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

import lfq_cli

PACKAGE = Path(lfq_cli.__file__).parent

LAYERS = (
    ("cpus", "dtypes", "errors", "rename", "version", "wording"),
    ("kernels",),
    ("bits", "extras", "floats", "layout", "regions"),
    ("packings", "signatures", "storage"),
    ("container", "files", "fingerprint", "quantizer", "statistics", "zipread"),
    ("codesfile", "countsfile", "native", "torchfile"),
    ("nn", "tensors"),
    ("checkpoints",),
    ("matching", "numerics", "samples"),
    ("backends", "training"),
    ("pipeline",),
    ("jobs", "report"),
    ("data",),
    ("exports",),
    ("cluster",),
    ("cli",),
    ("api",),
    ("ray",),
    ("__init__", "__main__"),
)
"""Bottom first. A name is a module or a package of lfq_cli; it imports from rows above its own in this table only."""

LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}

TORCH_AT_TOP = {"nn", "data", "training"}
"""Who imports torch as soon as it is imported: of data batches.py only, of training all that computes; both are
imported late."""

NN_AT_TOP: set[str] = {"training"}
"""Who else does so, by importing lfq_cli.nn: nobody that a comparison with 0 would wait for."""

MODULES = {path.relative_to(PACKAGE): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


def unit_of(path):
    """The name in LAYERS that a file belongs to."""
    return path.parts[0] if len(path.parts) > 1 else path.stem


def modules_named(node):
    """The dotted names that one node of a syntax tree imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative import: write the module's whole name"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Constant) and re.fullmatch(r"lfq_cli(\.\w+)+", str(node.value)):
        return [node.value]
    return []


def units_imported(source):
    """The names in LAYERS, or what should be there, that a module's source imports."""
    names = [name.split(".") for node in ast.walk(ast.parse(source)) for name in modules_named(node)]
    inside = [parts[1] for parts in names if parts[0] == "lfq_cli" and len(parts) > 1]
    return {"__init__" if part.startswith("_") else part for part in inside}


def imports_not_down(unit, source):
    return sorted(
        f"{unit} (layer {LAYER[unit]}) imports {other} (layer {LAYER.get(other, 'none')})"
        for other in units_imported(source) - {unit}
        if LAYER.get(other, len(LAYERS)) >= LAYER[unit]
    )


def names_at_top(source):
    """The dotted names imported when the module is: not in functions, not for type checkers."""
    pending, names = [ast.parse(source)], []
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Constant):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending += node.orelse
            continue
        names += modules_named(node)
        pending += ast.iter_child_nodes(node)
    return names


def test_every_module_has_its_layer_and_every_layer_its_modules():
    assert {unit_of(path) for path in MODULES} == set(LAYER)
    assert len(LAYER) == sum(map(len, LAYERS)), "a name stands twice"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_point_down(path):
    assert imports_not_down(unit_of(path), MODULES[path]) == []


def file_of(name):
    """The file of a module, or of the one that a name is imported from."""
    parts = name.split(".")[1:]
    tried = [Path(*parts[:k], *tail) for k in (len(parts), len(parts) - 1) for tail in ([], ["__init__"])]
    return next(path for path in (path.with_name(f"{path.name}.py") for path in tried if path.parts) if path in MODULES)


def modules_imported(source):
    """The files of lfq_cli that a source imports."""
    names = {name for node in ast.walk(ast.parse(source)) for name in modules_named(node)}
    return {file_of(name) for name in names if name.startswith("lfq_cli.")}


def circle(imports):
    """Modules that import each other, one after the other; none where there is no such circle."""
    done = set()

    def follow(module, road):
        if module in road:
            return [*road[road.index(module) :], module]
        if module in done:
            return []
        found = next(filter(None, (follow(other, [*road, module]) for other in sorted(imports[module]))), [])
        done.add(module)
        return found

    return next(filter(None, (follow(module, []) for module in sorted(imports))), [])


def test_no_modules_import_each_other_in_a_circle():
    imports = {path: modules_imported(source) - {path} for path, source in MODULES.items()}
    assert [str(path) for path in circle(imports)] == []


def test_the_guard_sees_a_circle():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_torch_is_imported_at_the_top_of_nn_only():
    found = {unit_of(path) for path in MODULES if any(re.match(r"torch\b", n) for n in names_at_top(MODULES[path]))}
    assert found == TORCH_AT_TOP


def test_who_imports_nn_at_its_top():
    found = {
        unit_of(path) for path in MODULES if any(re.match(r"lfq_cli\.nn\b", n) for n in names_at_top(MODULES[path]))
    }
    assert found - {"nn"} == NN_AT_TOP


@pytest.mark.parametrize(
    ("unit", "source"),
    [
        ("bits", "from lfq_cli.pipeline import count"),
        ("bits", "from lfq_cli import floats"),
        ("bits", "import lfq_cli.floats"),
        ("tensors", "def f():\n    from lfq_cli import nn"),
        ("nn", "if TYPE_CHECKING:\n    from lfq_cli.checkpoints import Facts"),
        ("tensors", "TABLE = {'.npy': 'lfq_cli.checkpoints.lucidrains'}"),
        ("cli", "from lfq_cli import __version__"),
        ("cli", "from lfq_cli import unheard_of"),
    ],
)
def test_the_guard_sees_an_import_that_points_up_or_sideways(unit, source):
    assert len(imports_not_down(unit, source)) == 1


@pytest.mark.parametrize(
    "source",
    ["import torch", "from torch import nn", "import torch.nn as nn", "try:\n    import torch\nfinally:\n    pass"],
)
def test_the_guard_sees_torch_at_the_top(source):
    assert names_at_top(source)


@pytest.mark.parametrize(
    "source", ["def f():\n    import torch", "if TYPE_CHECKING:\n    from torch import Tensor", "'import torch'"]
)
def test_the_guard_lets_late_imports_be(source):
    assert names_at_top(source) == []


def test_the_recipes_of_contributing_name_what_is_there():
    """Files that are to be made are called NAME; every other path and table in the recipes exists."""
    root = PACKAGE.parent
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = [path for path in re.findall(r"`((?:lfq_cli|tests|docs)/[\w/.]*)`", text) if "NAME" not in path]
    assert len(paths) > 15
    assert [path for path in paths if not (root / path).exists()] == []
    tables = re.findall(r"A row in `(\w+)` of `([\w/.]+)`", text)
    assert len(tables) == 7
    for table, path in tables:
        assert re.search(rf"^{table}\b", (root / path).read_text(encoding="utf-8"), re.MULTILINE), (table, path)


def test_files_that_are_not_python_are_installed_too():
    """A page's template and the like: pyproject.toml names each kind. What is compiled is setup.py's."""
    text = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    (globs,) = re.findall(r"^lfq_cli = \[(.*)\]$", text, re.MULTILINE)
    globs = re.findall(r'"([^"]+)"', globs)
    others = [
        path.relative_to(PACKAGE)
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc", ".c", ".h", ".so")  # setup.py compiles these
    ]
    assert Path("report/page.html") in others
    assert [path for path in others if not any(fnmatch(path.as_posix(), glob) for glob in globs)] == []
