"""A run that is killed again and again; in a file of its own, because it is long and runs beside the others."""

from helpers.scripts import TINY

from bench import kill_resume


def test_killed_eight_times_a_resumed_run_is_the_same(survey, capsys):
    """bench/kill_resume.py, as a person would run it: SIGKILL at random moments, in steps, validation and writing."""
    flags = ("--scheduler", "cosine", "--cycles", 2, "--keep", 2, "--accumulate", 2, "--ema", 0.9, "--epoch_size", 12)
    settings = kill_resume.Settings(str(survey), kills=8, n_epochs=26, flags=" ".join(map(str, (*TINY, *flags))))
    kill_resume.main(settings)
    *steps, last = capsys.readouterr().out.splitlines()
    kills = [line for line in steps if line.startswith("kill ")]  # 8, unless the machine was too busy to kill in time
    assert len(steps) == 8 or steps[len(kills)].startswith("finished before kill")
    assert last == f"{len(kills)} kills, 26 epochs: the same tensors, log, masks and set of snapshots"
