"""Write the front door of the losses, `losses/__init__.py`, from their files: `python docs/update_losses.py`.

A file offers what its `__all__` says; without one, the functions and classes whose names end in "loss" or "Loss".
"""

from __future__ import annotations

import ast
from pathlib import Path

# Not from `generated`, which imports the catalogue: a new row names a loss that this script has yet to export.
ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "src" / "congruence" / "losses"
PAGE = FOLDER / "__init__.py"
HEAD = '''"""Floor 2: the methods' losses, each a pure function and a thin module of the same name in CamelCase.

Written by docs/update_losses.py from the files beside this one.
"""
'''
WIDTH = 120


def offered(path: Path) -> list[str]:
    """Return the public names of a loss file, classes first."""
    tree = ast.parse(path.read_text(encoding="utf8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return sorted(ast.literal_eval(node.value))
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return sorted(name for name in defined if name.lower().endswith("loss") and not name.startswith("_"))


def page() -> str:
    """Return the front door as the files are now."""
    files = {path.stem: offered(path) for path in sorted(FOLDER.glob("*.py")) if path != PAGE}
    lines = [HEAD]
    for stem, names in files.items():
        line = f"from congruence.losses.{stem} import {', '.join(names)}"
        if len(line) > WIDTH:
            line = line.partition(" import ")[0] + " import (\n" + "".join(f"    {name},\n" for name in names) + ")"
        lines.append(line)
    names = sorted(name for of_file in files.values() for name in of_file)
    return "\n".join([*lines, "", "__all__ = [", *(f'    "{name}",' for name in names), "]", ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf8")
