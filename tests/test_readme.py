"""Test that the README and the pages in docs/ agree with the code."""

import re
import subprocess
from importlib import import_module

from helpers.scripts import ROOT, run_script

from utils.core.settings import flat_names

README = (ROOT / "README.md").read_text()


def test_the_page_of_flags_has_every_flag():
    page = (ROOT / "docs" / "flags_and_files.md").read_text()
    known: set[str] = set()
    for path in (*sorted(ROOT.glob("*.py")), *sorted((ROOT / "utils").glob("*.py"))):
        if 'if __name__ == "__main__"' not in path.read_text():
            continue
        module = import_module(f"utils.{path.stem}" if path.parent.name == "utils" else path.stem)
        kinds = [kind for name, kind in vars(module).items() if name.endswith("Settings")]
        assert kinds, path
        known |= {flag for kind in kinds for flag in flat_names(kind)}
    assert {"crop", "border", "target", "gate", "gate_probs", "fold", "kind", "truth"} <= known
    known -= {"sub", "masks", "snapshot", "experiment", "experiments", "url"}  # positional arguments
    missing = [name for name in known if not re.search(rf"--{name}(?!\w)", page)]
    assert missing == []


def test_files_that_the_readme_names_exist():
    for name in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / name).exists(), name
    tree = re.search(r"```\n(train\.py .*?)```", README, flags=re.DOTALL)[1]
    for name in re.findall(r"^(\w+(?:\.py|/))", tree, flags=re.MULTILINE):
        assert (ROOT / name).exists(), name


def test_the_recipes_are_valid_and_print_their_usage():
    for recipe in ("nuclei.sh", "nuclei_objects.sh"):
        done = subprocess.run(["bash", str(ROOT / "recipes" / recipe)], capture_output=True, text=True)
        assert done.returncode == 2
        assert "usage: bash recipes/" in done.stderr
    for recipe in (ROOT / "recipes").glob("*.sh"):
        subprocess.run(["bash", "-n", str(recipe)], check=True)
    assert run_script("train.py", "--help").returncode == 0
