"""Test that the benchmarks run, regardless of what they measure."""

import json

from helpers.scripts import TINY_ARCH, assert_refused, run_script


def test_throughput_of_the_project_itself(tmp_path):
    words = ("--only", "strata", "--rounds", 1, "--steps", 1, "--n_predict", 8)
    places = ("--out", tmp_path / "all.json", "--chart", tmp_path / "all.png")
    done = run_script("bench/throughput.py", *words, *places, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "strata " in done.stdout
    assert json.loads((tmp_path / "all.json").read_text())
    assert (tmp_path / "all.png").stat().st_size > 0


def test_levers_are_compared_with_the_first_one_and_finished_runs_are_kept(survey, tmp_path):
    tiny = f"--arch {TINY_ARCH} --batch_size 8 --n_epochs 1"
    words = ("bench/levers.py", "--data_dir", survey, "--fold", 0, "--length=--minutes .1", "--seeds", 1)
    words += ("--out", tmp_path)
    levers = ("--levers", f"tiny={tiny}", f"bce={tiny} --loss BCE")
    done = run_script(*words, *levers, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = [line.split() for line in done.stdout.splitlines() if not line.startswith("seed")]
    assert [row[0] for row in table] == ["tiny", "bce"]
    assert table[0][-1] == "+0.0000"
    assert float(table[1][-1]) == float(f"{float(table[1][1]) - float(table[0][1]):.4f}")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/summary.json")}
    assert run_script(*words, *levers, cwd=tmp_path).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert_refused(run_script(*words, "--levers", "no such lever"), 2, "--levers no such lever", "expected <name>=")
