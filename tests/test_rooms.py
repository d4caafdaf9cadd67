"""The walls of the house: who may import whom, no circles, and what loads a framework."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A room of ademx, or a folder beside it -> the rooms that it may import. "small" are the modules
# that lie in ademx/ itself; `ademx.compat` is open to all and stands nowhere.
GROUND = {"small", "symbols", "iters"}
MAY_IMPORT = {
    "symbols": set(),
    "iters": set(),
    "small": {"symbols", "iters"},
    "networks": GROUND,
    "convert": GROUND | {"networks"},
    "engines": GROUND | {"networks", "convert"},
    "data": GROUND,
    # Which tests its checkpoints while it trains; testing knows nothing of it.
    "training": GROUND | {"networks", "convert", "engines", "testing"},
    "testing": GROUND | {"networks", "convert", "engines"},
    "prediction": GROUND | {"networks", "convert", "engines", "testing"},
    "unravelling": GROUND | {"networks", "convert", "engines", "testing", "prediction"},
    "reports": GROUND | {"testing"},
    "reproduction": GROUND
    | {"networks", "convert", "engines", "data", "testing", "training", "reports"},
    "doctor": GROUND | {"engines"},
    "demo": GROUND | {"networks", "convert", "engines", "data", "testing", "training", "reports"},
}
MAY_IMPORT["cli"] = set(MAY_IMPORT)

# The modules that import a framework, when they are loaded or later.
MXNET = (
    *("ademx.compat", "ademx.doctor", "ademx.optimizer", "ademx.engines.backends"),
    *("ademx.engines.mxnet.", "iters.iterators"),
    *("symbols.graph", "symbols.losses"),
)
TORCH = (
    *("ademx.compat", "ademx.convert", "ademx.doctor", "ademx.engines.backends"),
    "ademx.engines.torch.",
)
ONNX = ("ademx.compat", "ademx.convert.onnx.", "ademx.convert.writing.", "ademx.engines.onnx.")

# The modules that cannot be loaded without a framework.
LOAD_ONE = (
    *("ademx.optimizer", "ademx.engines.mxnet.", "ademx.engines.torch.", "iters.iterators"),
    *("ademx.convert.torch_model", "symbols.graph", "symbols.losses"),
)


def _modules() -> dict[str, Path]:
    found = {}
    for top in ("ademx", "symbols", "iters"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = _modules()


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _without_annotations(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of code, but for what it imports for annotations alone."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from _without_annotations(node)


def _imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the modules that nodes of code import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{ast.unparse(node)}: imports are absolute here"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else str(node.module)


def _room(module: str) -> str:
    top, _, rest = module.partition(".")
    if top != "ademx":
        return top
    first = rest.partition(".")[0]
    return first if first in MAY_IMPORT else "small"


@cache
def _ours(module: str) -> set[str]:
    """Return the modules here that one imports anywhere, in functions and for annotations too."""
    found = _imports(ast.walk(_tree(MODULES[module])))
    return {name for name in found if name in MODULES and name != module}


@cache
def _loaded_and_called(module: str) -> tuple[set[str], set[str]]:
    """Return what a module imports but for annotations, and the names of what it calls."""
    nodes = list(_without_annotations(_tree(MODULES[module])))
    called = (node.func for node in nodes if isinstance(node, ast.Call))
    return set(_imports(nodes)), {getattr(one, "attr", getattr(one, "id", "")) for one in called}


def test_imports_go_down() -> None:
    wrong = [
        f"{module} ({_room(module)}) imports {other} ({_room(other)})"
        for module in MODULES
        for other in _ours(module)
        if _room(other) != _room(module)
        and other not in ("ademx", "ademx.compat")
        and _room(other) not in MAY_IMPORT[_room(module)]
        and module != "ademx.__main__"
    ]
    assert not wrong, "\n".join(sorted(wrong))


def test_a_room_is_entered_by_what_its_package_names() -> None:
    closed = set(MAY_IMPORT) - {"small", "symbols", "iters", "convert", "cli", "doctor", "demo"}
    named: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        if path.name == "__init__.py" and _room(module) in closed:
            for node in _tree(path).body:
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                    named[module] = set(ast.literal_eval(node.value))
    wrong = [
        f"{module} imports {other}, which {other.rpartition('.')[0]} does not name"
        for module in MODULES
        for other in _ours(module)
        if _room(other) != _room(module) and _room(other) in closed
        if other.rpartition(".")[2] not in named.get(other.rpartition(".")[0], set())
    ]
    assert not wrong, "\n".join(sorted(wrong))


def test_no_circles() -> None:
    order: dict[str, int] = {}
    circles: list[str] = []

    def visit(module: str, way: tuple[str, ...]) -> None:
        if module in way:
            circles.append(" -> ".join((*way[way.index(module) :], module)))
        elif module not in order:
            for other in sorted(_ours(module)):
                visit(other, (*way, module))
            order[module] = len(order)

    for module in MODULES:
        visit(module, ())
    assert not circles, "\n".join(circles)


@pytest.mark.parametrize(
    ("framework", "rooms"),
    [("mxnet", MXNET), ("torch", TORCH), ("onnx", ONNX), ("onnxruntime", ONNX)],
)
def test_frameworks_stay_in_their_rooms(framework: str, rooms: tuple[str, ...]) -> None:
    getter = {"mxnet": "import_mxnet", "torch": "import_torch"}.get(framework, "import_onnx")
    wrong = []
    for module in MODULES:
        loaded, called = _loaded_and_called(module)
        named = framework in {name.split(".")[0] for name in loaded}
        if (named or getter in called) and not f"{module}.".startswith(rooms):
            wrong.append(module)
    assert not wrong, f"{framework} is imported by {wrong}"


def test_nothing_else_loads_a_framework() -> None:
    names = [
        name for name in MODULES if not f"{name}.".startswith(LOAD_ONE) and name != "ademx.__main__"
    ]
    code = (
        "import importlib, sys\n"
        "heavy = ('mxnet', 'torch', 'onnx', 'onnxruntime', 'matplotlib')\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    found = [one for one in heavy if one in sys.modules]\n"
        "    if found: sys.exit(f'{name} loads {found}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
