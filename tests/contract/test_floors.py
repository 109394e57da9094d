"""The house keeps its floors: imports point downward, files stay short, distiller and loop name no method."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

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
    "pipeline": 10,
    "bench": 11,
    "report": 11,
    "cli": 12,
    "__main__": 13,
    "__init__": 13,  # the front door: it names what it offers, for type checkers and on first use
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


def type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(tree, *, top_only):
    """Yield (module, line) for each import of ours; `top_only` leaves out those inside functions."""
    stack = list(tree.body)
    while stack:
        node = stack.pop()
        if type_checking(node):
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in inner]
        else:
            names = []
            if not (top_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
                stack.extend(ast.iter_child_nodes(node))
        yield from ((name, node.lineno) for name in names if name.split(".")[0] == "congruence")


def test_the_packages_are_the_known_ones():
    found = {package_of(name) for name in MODULES}
    assert found <= set(FLOORS), f"new packages {sorted(found - set(FLOORS))} need a floor, here and in the design"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downward(module):
    mine = package_of(module)
    for imported, line in imports(TREES[module], top_only=False):
        theirs = package_of(imported)
        below = FLOORS[theirs] < FLOORS[mine] or theirs == mine
        assert below, f"{module}, line {line}: {mine} (floor {FLOORS[mine]}) imports {theirs} ({FLOORS[theirs]})"


def test_no_cycles():
    graph = {name: {found for found, _ in imports(tree, top_only=True)} for name, tree in TREES.items()}
    done, path = set(), []

    def visit(name):
        assert name not in path, f"a cycle of imports: {' -> '.join([*path[path.index(name) :], name])}"
        if name in done:
            return
        path.append(name)
        for found in sorted(graph.get(name, ())):
            # A package's own files pass through its __init__, which is there before it has run to its end.
            if not (found == name or name.startswith(f"{found}.")):
                visit(found)
        path.pop()
        done.add(name)

    for name in graph:
        visit(name)
    assert done >= set(graph)


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
    from congruence.methods import keys

    known = set(keys())
    for module, tree in TREES.items():
        if package_of(module) in ("distiller", "training"):
            docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                    assert node.value not in known, f"{module}, line {node.lineno} names the method '{node.value}'"
    assert known


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
    from congruence.methods import keys, row

    for key in keys():
        module = row(key).function.__module__
        assert re.fullmatch(rf"congruence\.(losses|methods)\.{key}", module), (
            f"the row '{key}' has its function in {module}"
        )
