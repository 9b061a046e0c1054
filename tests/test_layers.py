"""Imports point down only, `import excise` is light, and nothing but the console prints."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "excise"
ORDER = (
    {"errors", "observer", "codec"},
    {"linalg"},
    {"results"},
    {"prompts", "behaviours", "settings", "edits", "intervene", "checkpoint", "store", "report", "directions", "demo"},
    {"architecture", "source", "placement", "chat", "generation", "lanes"},
    {"model"},
    {"executor"},
    {"evaluate"},
    {"activations"},
    {"search"},
    {"gather"},
    {"stages"},
    {"outputs", "judging", "hub"},
    {"story"},
    {"api"},
    {"cli"},
)
"""Floors, lowest first: a module may import from its own floor and from lower ones."""


def floor(name: str) -> int:
    for number, names in enumerate(ORDER):
        if name in names:
            return number
    raise AssertionError(f"{name}: say in test_layers.ORDER on which floor it stands")


def imports(path: Path) -> set[str]:
    """First names below `excise` that a file imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] == "excise":
                found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("excise.")}
    return found


def test_imports_point_down() -> None:
    for path in SOURCE.rglob("*.py"):
        part = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        for name in imports(path) - {part}:
            assert floor(name) <= floor(part), (
                f"{path.relative_to(SOURCE)} imports excise.{name}, which stands above it"
            )


def test_checkpoints_never_load_a_model_and_reports_never_see_one() -> None:
    for folder in ("checkpoint", "report"):
        for path in (SOURCE / folder).rglob("*.py"):
            assert not imports(path) & {"model", "executor", "architecture"}, path
            lines = path.read_text("utf-8").splitlines()
            assert not any(line.strip().startswith(("import transformers", "from transformers")) for line in lines), (
                path
            )


def test_importing_excise_is_light() -> None:
    code = "import excise, sys; assert 'torch' not in sys.modules; print(len(excise.__all__))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 20
    import excise

    assert all(getattr(excise, name) is not None for name in excise.__all__)


def test_files_and_functions_keep_to_their_rooms() -> None:
    for path in SOURCE.rglob("*.py"):
        text = path.read_text("utf-8")
        assert text.count("\n") <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 50, f"{path}: {node.name}"
