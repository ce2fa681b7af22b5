"""README and docs keep up with the code."""

import importlib
import re
import shlex
import statistics
import subprocess
import sys

import pytest
from helpers.scripts import ROOT, run_script

from bench.time_to_score import curves, read_results
from utils.core.settings import flat_names

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
sys.path.insert(0, str(ROOT / "docs"))


def settings_by_script():
    """Settings of every script: "train.py" -> [TrainSettings], "utils/share.py" -> [PushSettings, PullSettings]."""
    found = {}
    for path in (*sorted(ROOT.glob("*.py")), *sorted((ROOT / "utils").glob("*.py"))):
        if 'if __name__ == "__main__"' in path.read_text():
            script = path.relative_to(ROOT).as_posix()
            module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
            found[script] = [kind for name, kind in vars(module).items() if name.endswith("Settings")]
    return found


def test_the_tables_of_flags_are_current():
    write_flags = importlib.import_module("write_flags")
    assert write_flags.PAGE.read_text() == write_flags.page(write_flags.PAGE.read_text()), (
        "run: python docs/write_flags.py"
    )
    assert set(write_flags.SCRIPTS) == set(settings_by_script())
    assert "| `--fold` | `0` |" in write_flags.tables()


def test_every_flag_in_the_commands_of_the_pages_is_a_flag_of_the_script():
    known = {script: {"help"}.union(*map(flat_names, kinds)) for script, kinds in settings_by_script().items()}
    checked = 0
    for page in PAGES:
        for block in re.findall(r"```\w*\n(.*?)```", page.read_text(), flags=re.DOTALL):
            for line in re.sub(r"\\\n\s*", " ", block).splitlines():
                words = shlex.split(line, comments=True)
                script = next((word for word in words if word in known), None)
                if script is None:
                    continue
                after = words[words.index(script) + 1 :]
                flags = {word[2:].partition("=")[0] for word in after if word.startswith("--")}
                assert flags <= known[script], (page.name, line)
                checked += 1
    assert checked > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_the_pages_name_are_there(page):
    for name in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not name.startswith("https://"):
            assert (page.parent / name).exists(), name


def test_the_tree_of_the_architecture_is_there():
    tree = re.search(r"```\n(train\.py .*?)```", (ROOT / "docs" / "architecture.md").read_text(), flags=re.DOTALL)[1]
    for name in re.findall(r"^([\w/]+(?:\.py|/))", tree, flags=re.MULTILINE):
        assert (ROOT / name).exists(), name
    packages = {f"utils/{path.parent.name}/" for path in (ROOT / "utils").glob("*/__init__.py")}
    assert packages <= set(tree.split())
    commands = re.search(r"the commands: ([\w ]+)", tree)[1].split()
    assert {f"utils/{name}.py" for name in commands} == {name for name in settings_by_script() if "/" in name}


def test_the_readme_fits_on_a_screen_and_a_bit():
    assert len(README.splitlines()) <= 130
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README)
    assert len(pictures) == 2
    assert sum((ROOT / picture).stat().st_size for picture in pictures) <= 300_000


def test_the_table_beside_other_tools_shows_the_published_scores():
    """Strata's mean over the seeds, and the highest mean of the others."""
    sets = curves(read_results(ROOT / "bench" / "time_to_score.csv"), "pooled_iou")
    lines = re.search(r"\| pooled IoU.*?\n\n", README, flags=re.DOTALL)[0].strip().splitlines()
    (_, *times), _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert {name.split(",")[0] for name, *_ in rows} == {title.split(",")[0] for title in sets}
    for name, *cells in rows:
        for time, cell in zip(times, cells, strict=True):
            by_contender = sets[f"{name.split(',')[0]}, fold 0"]
            minutes = float(time.split()[0])
            means = {key: statistics.mean(found[minutes]) for key, found in by_contender.items() if minutes in found}
            own, others = means.pop("recipe", None), [means[key] for key in means if key != "original"]
            expected = f"**{own:.2f}** {max(others):.2f}".replace("0.", ".") if own and others else ""
            assert cell == expected, f"{name}, {time}"


def test_the_recipes_are_valid_and_print_their_usage():
    for recipe in ("nuclei.sh", "nuclei_objects.sh"):
        done = subprocess.run(["bash", str(ROOT / "recipes" / recipe)], capture_output=True, text=True)
        assert done.returncode == 2
        assert "usage: bash recipes/" in done.stderr
    for recipe in (ROOT / "recipes").glob("*.sh"):
        subprocess.run(["bash", "-n", str(recipe)], check=True)
    assert run_script("train.py", "--help").returncode == 0
