"""Test that the README's commands run, unchanged except for tiny numbers, in an empty folder."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from helpers.scripts import ROOT, succeed

README = (ROOT / "README.md").read_text()
SMALLER = {
    "--arch unet_resnet34_v1": "--arch unet_resnet18",
    "in 0 1 2 3 4": "in 0 1",
    "--n_splits 5": "--n_splits 2",
    "--n_epochs 50": "--n_epochs 1 --batch_size 8",
    "--cycles 5 --n_epochs 100": "--cycles 2 --n_epochs 2 --batch_size 8",
}


def test_the_commands_of_the_readme_run(tmp_path):
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
