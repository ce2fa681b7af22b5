"""Test that the benchmarks run, regardless of what they measure."""

import json

from helpers.scripts import run_script


def test_throughput_of_the_project_itself(tmp_path):
    words = ("--only", "strata", "--rounds", 1, "--steps", 1, "--n_predict", 8)
    places = ("--out", tmp_path / "all.json", "--chart", tmp_path / "all.png")
    done = run_script("bench/throughput.py", *words, *places, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "strata " in done.stdout
    assert json.loads((tmp_path / "all.json").read_text())
    assert (tmp_path / "all.png").stat().st_size > 0
