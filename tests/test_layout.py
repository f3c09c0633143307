"""The direction of imports, the length of files and the list of packages match the documented layout."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "manifests": {"manifests"},
    "model": {"model"},
    "pipeline": {"pipeline", "manifests"},
    "jobs": {"jobs", "pipeline", "model", "manifests"},
}
SOURCES = sorted(path for folder in MAY_IMPORT for path in (ROOT / folder).rglob("*.py"))


def imported_modules(path: Path) -> Iterator[str]:
    """Yield the modules of this project that `path` imports anywhere in the file, e.g. `jobs.common.errors`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("whisper_gpt"):
            module = (node.module or "").removeprefix("whisper_gpt.")
            for alias in node.names:
                submodule = ROOT / module.replace(".", "/") / f"{alias.name}.py"
                yield f"{module}.{alias.name}" if submodule.is_file() else module


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way_and_files_are_short(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    assert {module.partition(".")[0] for module in imported_modules(path)} <= MAY_IMPORT[folder]
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350


def test_only_the_cli_imports_verbs() -> None:
    verbs = {f"jobs.{path.stem}" for path in (ROOT / "jobs").glob("*.py")}
    for path in SOURCES:
        if path.parent != ROOT / "jobs":
            assert not verbs & set(imported_modules(path)), path


def test_no_import_cycles() -> None:
    graph = {".".join(path.relative_to(ROOT).with_suffix("").parts): set(imported_modules(path)) for path in SOURCES}
    visited: set[str] = set()

    def visit(module: str, importers: tuple[str, ...]) -> None:
        assert module not in importers, " → ".join((*importers, module))
        if module not in visited:
            for imported in graph.get(module, ()):
                visit(imported, (*importers, module))
            visited.add(module)

    for module in graph:
        visit(module, ())


def test_every_package_is_listed_for_installation() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for path in SOURCES}
    assert sorted(listed) == sorted("whisper_gpt." + ".".join(folder.parts) for folder in folders)


def test_the_compiler_is_imported_only_when_asked_for() -> None:
    """It takes two seconds, which every verb with a model would pay at its start."""
    check = "import sys; import whisper_gpt.jobs.generate; sys.exit('torch._dynamo' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
