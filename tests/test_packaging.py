"""What a stranger gets: two commands that exist, pinned packages, packaged files, help, and documents that keep up."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib import import_module, metadata, resources
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.main import get_command
from typer.testing import CliRunner

import excise
from excise import behaviours, errors
from excise.checkpoint import open_index
from excise.cli.commands import app
from excise.settings import RunSettings

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def pins() -> dict[str, str]:
    lines = [line for line in text("constraints.txt").splitlines() if line and not line.startswith("#")]
    found = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    assert len(found) == len(lines), "a package is pinned twice"
    return found


# ---------------------------------------------------------------- commands of the repository
def test_the_readmes_two_commands_are_in_the_makefile() -> None:
    start = text("README.md").split("## Quick start")[1]
    block = re.search(r"```\n(.*?)```", start, re.DOTALL)
    assert block is not None
    commands = block.group(1).split("\n")[:-1]
    assert commands == ["make demo", "make test"]
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))
    assert {command.split()[1] for command in commands} <= targets


def test_make_knows_what_to_do_without_doing_it() -> None:
    done = subprocess.run(["make", "-n", "-C", str(ROOT), "test"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for part in ("ruff check", "ruff format --check", "mypy", "pytest --cov", '-m "not slow"'):
        assert part in done.stdout
    assert (
        "excise run --out"
        in subprocess.run(["make", "-n", "-C", str(ROOT), "demo"], capture_output=True, text=True, check=True).stdout
    )


def test_ci_runs_the_readmes_test_command_and_stops_at_the_first_failure() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111, "not executable"
    lines = script.read_text("utf-8").splitlines()
    assert lines[0].startswith("#!") and "bash" in lines[0]
    assert "set -euo pipefail" in lines
    assert any(line.startswith("make test") for line in lines)
    assert any("-m build" in line for line in lines) and any("dist/excise-*.whl" in line for line in lines)
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_hooks_before_a_commit_need_no_network() -> None:
    config = yaml.safe_load(text(".pre-commit-config.yaml"))
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    assert {hook["id"] for hook in hooks} == {"ruff", "ruff-format", "mypy"}
    assert all(hook["language"] == "system" for hook in hooks)


# ---------------------------------------------------------------- the package
def test_constraints_pin_torch_and_everything_that_is_asked_for() -> None:
    pinned = pins()
    assert pinned["torch"] == "2.13.0"
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    for requirement in map(Requirement, wanted):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not pinned"
        assert requirement.specifier.contains(version), f"{requirement} does not allow {version}"


def test_constraints_are_closed_under_what_the_installed_packages_ask_for() -> None:
    pinned = pins()
    for name in pinned:
        try:
            asked = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, asked):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            if re.match(r"nvidia-|cuda-|triton", requirement.name):
                continue
            assert canonicalize_name(requirement.name) in pinned, f"{name} needs {requirement}"


def test_metadata_names_version_and_licence() -> None:
    assert excise.__version__ == PROJECT["version"] == metadata.version("excise")
    found = metadata.metadata("excise")
    assert found["License-Expression"] == "Apache-2.0"
    assert found["Requires-Python"] == ">=3.11"
    assert "Apache License" in text("LICENSE")[:300]
    assert PROJECT["version"] in text("CHANGELOG.md")
    assert any(entry.name == "excise" for entry in metadata.entry_points(group="console_scripts"))


def test_packaged_files_are_reachable_as_resources() -> None:
    package = resources.files("excise")
    for name in behaviours.names():
        behaviour = behaviours.load(name)
        assert package.joinpath("behaviours", f"{name}.toml").is_file()
        for prompts in (behaviour.target, behaviour.neutral):
            assert package.joinpath("behaviours", "prompts", prompts).read_text("utf-8").strip()
    for name in ("page.html.j2", "page.css", "page.js", "card.md.j2", "plots.svg.j2"):
        assert package.joinpath("report", name).read_text("utf-8").strip(), name
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "README.md"):
        assert package.joinpath("demo", "model", name).is_file(), name
    with resources.as_file(package.joinpath("demo", "model")) as folder:
        assert open_index(folder).places
        assert (folder / "model.safetensors").stat().st_size <= 8 * 2**20


# ---------------------------------------------------------------- the command line
def test_every_command_and_option_has_help() -> None:
    runner = CliRunner()
    for name in COMMANDS:
        shown = runner.invoke(app, [name, "--help"])
        assert shown.exit_code == 0, name
        command = get_command(app).commands[name]  # type: ignore[attr-defined]
        assert command.help and command.help.strip().endswith((".", ")")), name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name}: {parameter.name} has no help"


def test_every_setting_is_an_option_of_run() -> None:
    options = {parameter.name for parameter in get_command(app).commands["run"].params}  # type: ignore[attr-defined]
    assert set(RunSettings.model_fields) <= options


# ---------------------------------------------------------------- documents
@pytest.mark.parametrize("name", COMMANDS)
def test_the_guide_walks_through_every_command(name: str) -> None:
    assert re.search(rf"^#+ .*`excise {name}`", text("docs/guide.md"), re.MULTILINE), name


def test_the_guide_names_every_setting_and_exit_code() -> None:
    guide = text("docs/guide.md")
    for name in RunSettings.model_fields:
        assert f"`{name}`" in guide, name
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.ExciseError):
            row = re.search(rf"^\| {kind.exit_code} \|.*`{kind.__name__}`", guide, re.MULTILINE)
            assert row, f"{kind.__name__} with exit code {kind.exit_code}"


def test_the_methods_constants_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| ([\d.]+) \|", text("docs/method.md"), re.MULTILINE)
    assert rows
    for name, value in rows:
        parts = f"excise.{name}".split(".")
        depth = next(i for i in range(len(parts) - 1, 0, -1) if _is_module(".".join(parts[:i])))
        found = import_module(".".join(parts[:depth]))
        for part in parts[depth:]:
            found = getattr(found, part)
        assert float(value) == found, f"docs/method.md says {name} = {value}, the code {found}"


def _is_module(name: str) -> bool:
    try:
        import_module(name)
    except ModuleNotFoundError:
        return False
    return True


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md")), ids=lambda p: p.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (path.parent / target.split("#")[0]).exists(), f"{path.name}: {target}"


def test_every_public_name_has_a_docstring() -> None:
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / "src").rglob("*.py"))
        for name in _undocumented(ast.parse(path.read_text("utf-8")))
        if (path.read_text("utf-8").strip() or name)
    ]
    assert missing == []


def _undocumented(node: ast.AST, prefix: str = "") -> Iterator[str]:
    """Public modules, classes, functions and methods without a docstring."""
    body: list[ast.stmt] = getattr(node, "body", [])
    if isinstance(node, ast.Module) and body and ast.get_docstring(node) is None:
        yield "the module"
    for child in body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            if ast.get_docstring(child) is None:
                yield prefix + child.name
            if isinstance(child, ast.ClassDef):
                yield from _undocumented(child, f"{prefix}{child.name}.")
