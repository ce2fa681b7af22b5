"""Test the structure: `utils` never needs torch, layers only import lower ones, and heavy imports are delayed."""

import ast
import pkgutil
import subprocess
import sys
import tomllib

import pytest
from helpers.scripts import ROOT, run_script
from setuptools import find_packages

import utils

MODULES = [module.name.partition(".")[2] for module in pkgutil.walk_packages(utils.__path__, "utils.")]
SCRIPTS = [path.name for path in sorted(ROOT.glob("*.py"))]
COMMANDS = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "utils").glob("*.py")) if path.stem != "__init__"]
HEAVY = {"torch", "torchvision", "albumentations", "segmentation_models_pytorch", "timm"}
LAYERS = [
    {"core"},
    {"runs"},
    {"data"},
    {"masks"},
    {"scoring"},
    {"competition", "synthetic"},
    {"report"},
]
"""Packages of utils in layers; each imports only from layers before its own."""
RANK = {package: rank for rank, layer in enumerate(LAYERS) for package in layer}


def name_of(path):
    """Return the dotted name of a module from the path of its file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {
    name_of(path): path
    for folder in (".", "net", "utils", "utils/*", "bench", "tests", "tests/*")
    for path in ROOT.glob(f"{folder}/*.py")
}


def imports_of(path):
    """Return the project's modules that a file imports, at the top level or in a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name in FILES}


IMPORTS = {name: imports_of(path) for name, path in FILES.items()}


def loaded_by(statement):
    code = f"import sys; {statement}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_no_module_of_utils_imports_torch_or_net():
    assert {name.partition(".")[0] for name in MODULES if "." in name} == set(RANK)
    loaded = loaded_by("import " + ", ".join(f"utils.{name}" for name in MODULES))
    assert not loaded & (HEAVY | {"net", "sklearn", "matplotlib"})


def test_nothing_in_utils_is_named_like_a_standard_module():
    assert not {name.partition(".")[0] for name in MODULES} & set(sys.stdlib_module_names)


def test_layers_import_downwards_only():
    wrong = []
    for name, imported in IMPORTS.items():
        package = name.split(".")[1] if name.count(".") == 2 and name.startswith("utils.") else None
        for other in imported if package else ():
            place = other.split(".")
            below = len(place) == 3 and (place[1] == package or RANK[place[1]] < RANK[package])
            if not (below or other == "utils" or place[:2] == ["utils", package]):
                wrong.append(f"{name} imports {other}")
    assert wrong == []


def test_imports_have_no_cycles():
    """Check imports at the top level and in functions for cycles, including those through other modules."""
    done = set()

    def visit(name, path):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(IMPORTS[name]):
                visit(other, [*path, name])
            done.add(name)

    for name in FILES:
        visit(name, [])


def test_every_module_is_used_by_a_script_or_a_test():
    library = {name for name, path in FILES.items() if name.startswith(("net.", "utils.")) and path.stem != "__init__"}
    library -= {name_of(ROOT / command) for command in COMMANDS}
    reached, waiting = set(), [*FILES.keys() - library, "utils.runs.tracker_process"]  # runs as a separate process
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += IMPORTS[name]
    assert library - reached == set()


def test_an_installation_finds_all_packages():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = find_packages(str(ROOT), include=wanted["packages"]["find"]["include"])
    assert set(found) == {"bench", "net", "utils", *(f"utils.{package}" for package in RANK)}
    assert sorted(f"{name}.py" for name in wanted["py-modules"]) == SCRIPTS


@pytest.mark.parametrize("script", [*SCRIPTS, *COMMANDS])
def test_help_is_printed_and_a_misspelt_flag_is_an_error(script):
    done = run_script(script, "--help")
    assert done.returncode == 0
    assert "usage:" in done.stdout
    assert "\x1b" not in done.stdout  # no colours outside a terminal
    for puzzle in ("{None}", "default: None", "(default: )", "prediction."):
        assert puzzle not in done.stdout
    wrong = run_script(script, "--foldd", "1")
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_importing_a_script_imports_nothing_heavy(script):
    assert not loaded_by(f"import {script.removesuffix('.py')}") & HEAVY


QUESTIONS = {"What", "Which", "Where", "How", "Whether", "Who", "When"}


def test_docstrings_say_what_something_does_instead_of_asking():
    opened = []
    for path in FILES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            text = ast.get_docstring(node) if documented else None
            if text and text.split()[0] in QUESTIONS:
                opened.append(f"{path.relative_to(ROOT)}: {text.splitlines()[0]}")
    assert opened == []
