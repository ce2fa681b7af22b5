"""The house's one rule: `net` needs torch, `utils` never does; and nothing in `utils` is heavy before it is used."""

import pkgutil
import subprocess
import sys

import pytest
from script_helpers import ROOT, run_script

import utils

MODULES = [module.name.partition(".")[2] for module in pkgutil.walk_packages(utils.__path__, "utils.")]
DOORS = [path.name for path in sorted(ROOT.glob("*.py"))]
SCRIPTS = [
    str(path.relative_to(ROOT))
    for path in sorted((ROOT / "utils").rglob("*.py"))
    if 'if __name__ == "__main__"' in path.read_text()
]
HEAVY = {"torch", "torchvision", "albumentations", "segmentation_models_pytorch", "timm"}


def loaded_by(statement):
    code = f"import sys; {statement}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_no_module_of_utils_imports_torch_or_net():
    loaded = loaded_by("import " + ", ".join(f"utils.{name}" for name in MODULES))
    assert not loaded & (HEAVY | {"net", "sklearn", "matplotlib"})


def test_no_module_of_utils_is_named_like_a_standard_one():
    assert not {name.partition(".")[0] for name in MODULES} & set(sys.stdlib_module_names)


@pytest.mark.parametrize("script", [*DOORS, *SCRIPTS])
def test_help_answers_without_anything_heavy_and_a_misspelt_flag_is_an_error(script):
    done = run_script(script, "--help")
    assert done.returncode == 0
    assert "usage:" in done.stdout
    assert "\x1b" not in done.stdout  # colours are for terminals
    wrong = run_script(script, "--foldd", "1")
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr


@pytest.mark.parametrize("door", DOORS)
def test_a_door_imports_nothing_heavy_by_itself(door):
    assert not loaded_by(f"import {door.removesuffix('.py')}") & HEAVY
