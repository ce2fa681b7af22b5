"""The README's commands, typed as they stand but for tiny numbers, in a folder of their own; and pages that keep up."""

import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from script_helpers import ROOT, run_script, succeed

from utils.settings import flat_names

README = (ROOT / "README.md").read_text()
SMALLER = {
    "--arch unet_resnet34_v1": "--arch unet_resnet18",
    "in 0 1 2 3 4": "in 0 1",
    "--n_splits 5": "--n_splits 2",
    "--n_epochs 50": "--n_epochs 1 --batch_size 8",
    "--cycles 5 --n_epochs 100": "--cycles 2 --n_epochs 2 --batch_size 8",
}


def test_the_story_runs_as_it_stands(tmp_path):
    (story,) = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    for words, smaller in SMALLER.items():
        assert words in story
        story = story.replace(words, smaller)
    for name in ("net", "utils"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for script in ROOT.glob("*.py"):
        shutil.copy(script, tmp_path)
    succeed("utils/make_demo.py", "--out_dir", tmp_path / "data", "--n_train", 16, "--n_test", 4)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", story], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "submissions").glob("*.csv"))) == 4
    assert (tmp_path / "look.png").stat().st_size > 1000
    assert (tmp_path / "experiments" / "unet_fold1" / "threshold.json").is_file()
    assert "Traceback" not in done.stderr


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
    known -= {"sub", "masks", "snapshot", "experiment", "experiments", "url"}  # words without a flag
    missing = [name for name in known if not re.search(rf"--{name}(?!\w)", page)]
    assert missing == []


def test_files_that_the_readme_names_are_there():
    for name in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / name).exists(), name
    tree = re.search(r"```\n(train\.py .*?)```", README, flags=re.DOTALL)[1]
    for name in re.findall(r"^(\w+(?:\.py|/))", tree, flags=re.MULTILINE):
        assert (ROOT / name).exists(), name


def test_the_recipes_say_what_they_want():
    for recipe in ("nuclei.sh", "nuclei_objects.sh"):
        done = subprocess.run(["bash", str(ROOT / "recipes" / recipe)], capture_output=True, text=True)
        assert done.returncode == 2
        assert "usage: bash recipes/" in done.stderr
    for recipe in (ROOT / "recipes").glob("*.sh"):
        subprocess.run(["bash", "-n", str(recipe)], check=True)
    assert run_script("train.py", "--help").returncode == 0
