"""The house keeps its floors: imports point downward, files stay short, distiller and loop name no method."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections import Counter
from pathlib import Path

import pytest

import congruence as cg

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "congruence"
FLOORS = {
    "core": 0,
    "geometry": 1,
    "losses": 2,
    "models": 2,
    "data": 3,
    "metrics": 3,
    "methods": 4,
    "distiller": 5,
    "teacher_cache": 6,
    "evaluation": 7,
    "training": 8,
    "testing": 9,
    "config": 9,
    "integrations": 9,
    "pipeline": 10,
    "bench": 11,
    "report": 12,
    "cli": 13,
    "__main__": 14,
    "__init__": 14,  # the front door: it names what it offers, for type checkers and on first use
}
LONG: dict[str, str] = {}  # files over 400 lines, each with its reason
LINES = 400
FUNCTION_LINES = 80
NOT_MIRRORED = {"__init__", "__main__"}

FILES = sorted(SOURCE.rglob("*.py"))


def name_of(path):
    return ".".join(("congruence", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}
TREES = {name: ast.parse(path.read_text(encoding="utf8")) for name, path in MODULES.items()}


def package_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(tree):
    """Yield (module, line) for each import of ours: those inside functions and those for types alone, too."""
    stack = list(tree.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in inner]
        else:
            names = []
            stack.extend(ast.iter_child_nodes(node))
        yield from ((name, node.lineno) for name in names if name.split(".")[0] == "congruence")


def test_the_packages_are_the_known_ones():
    found = {package_of(name) for name in MODULES}
    assert found <= set(FLOORS), f"new packages {sorted(found - set(FLOORS))} need a floor, here and in the design"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downward(module):
    mine = package_of(module)
    for imported, line in imports(TREES[module]):
        theirs = package_of(imported)
        below = FLOORS[theirs] < FLOORS[mine] or theirs == mine
        assert below, f"{module}, line {line}: {mine} (floor {FLOORS[mine]}) imports {theirs} ({FLOORS[theirs]})"


def circle(graph):
    """Return a circle of a graph as text, None where it has none."""
    done, path = set(), []

    def visit(name):
        if name in path:
            return " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            path.append(name)
            for other in sorted(graph.get(name, ())):
                if other != name and (text := visit(other)):
                    return text
            path.pop()
            done.add(name)
        return None

    return next((text for name in graph if (text := visit(name))), None)


def test_a_circle_is_seen():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == "a -> b -> c -> a"
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def files_only(imported):
    """Whether a name is a file's or a room's front door, not the whole package's, which names all it offers."""
    return imported in MODULES and imported != "congruence"


def test_no_circle_of_files():
    graph = {name: {found for found, _ in imports(tree) if files_only(found)} for name, tree in TREES.items()}
    assert circle({name: found for name, found in graph.items() if name != "congruence"}) is None


def room_of(module):
    """The folder that a file is in: "congruence.data.sources" for one of its files."""
    return module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]


def test_no_circle_of_rooms():
    graph = {}
    for name, tree in TREES.items():
        if MODULES[name].name == "__init__.py":
            continue  # a front door names what lies behind it
        graph.setdefault(room_of(name), set()).update(room_of(found) for found, _ in imports(tree) if files_only(found))
    assert circle(graph) is None


def test_no_room_is_called_as_a_public_function():
    functions = {name for name in cg.__all__ if not inspect.ismodule(getattr(cg, name))}
    for package in ("data", "evaluation", "geometry", "losses", "metrics", "methods", "models", "training"):
        module = importlib.import_module(f"congruence.{package}")
        functions |= {name for name in module.__all__ if inspect.isfunction(getattr(module, name))}
    rooms = {room.rpartition(".")[2] for room in map(room_of, MODULES)}
    assert not functions & rooms


def test_no_file_name_thrice():
    names = Counter(path.name for path in FILES if path.name != "__init__.py")
    assert not {name: count for name, count in names.items() if count > 2}


@pytest.mark.parametrize("module", MODULES)
def test_house_rules(module):
    path, tree = MODULES[module], TREES[module]
    lines = len(path.read_text(encoding="utf8").splitlines())
    assert lines <= LINES or module in LONG, f"{module} has {lines} lines, over {LINES}: split it, or say why in LONG"
    public = [tree]
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Assert), f"{module}, line {node.lineno}: `assert` is for tests; raise"
        if package_of(module) != "cli" and isinstance(node, ast.Call):
            assert ast.unparse(node.func) != "print", f"{module}, line {node.lineno}: only cli prints"
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.body[0].lineno + 1
            assert length < FUNCTION_LINES + doc_lines(node), f"{module}: {node.name} has {length} lines"
    for node in public + public_definitions(tree):
        assert ast.get_docstring(node), f"{module}: {getattr(node, 'name', 'the file')} has no docstring"


def doc_lines(node):
    return len((ast.get_docstring(node) or "").splitlines())


def public_definitions(tree):
    """Public functions and classes, and public methods of public classes but overloads of magic ones."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    for node in list(found):
        if isinstance(node, ast.ClassDef):
            found += [inner for inner in node.body if isinstance(inner, kinds) and not inner.name.startswith("_")]
    return found


def test_long_files_are_still_long():
    for module in LONG:
        lines = len(MODULES[module].read_text(encoding="utf8").splitlines())
        assert lines > LINES, f"{module} has {lines} lines: take it off LONG"
    assert all(LONG.values())


def test_neither_distiller_nor_loop_names_a_method():
    from _harness.cases import OWN_KEYS

    for module, tree in TREES.items():
        if package_of(module) in ("distiller", "training"):
            docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                    assert node.value not in OWN_KEYS, f"{module}, line {node.lineno} names the method '{node.value}'"
    assert OWN_KEYS


def test_tests_mirror_the_source():
    missing = []
    for path in FILES:
        relative = path.relative_to(SOURCE)
        if relative.parts[0] == "losses" and path.stem not in NOT_MIRRORED:
            test = ROOT / "tests" / relative.parent / f"test_{path.name}"
            missing += [] if test.exists() else [str(test.relative_to(ROOT))]
    assert not missing, f"each loss has its test: {missing} are missing"
    # Elsewhere a test may cover several files, but it never stands for a file that is gone.
    for test in (ROOT / "tests").rglob("test_*.py"):
        folder = test.parent.relative_to(ROOT / "tests")
        if folder.parts and folder.parts[0] in FLOORS:
            assert (SOURCE / folder).is_dir(), f"{test.relative_to(ROOT)}: there is no src/congruence/{folder}"


def test_a_method_is_its_key():
    from _harness.cases import OWN_KEYS

    from congruence.methods import row

    for key in OWN_KEYS:
        module = row(key).function.__module__
        assert re.fullmatch(rf"congruence\.(losses|methods)\.{key}", module), (
            f"the row '{key}' has its function in {module}"
        )
