"""A run that is killed repeatedly; in a separate file, because it takes long and runs in parallel to other files."""

from helpers.scripts import TINY

from bench import kill_resume


def test_killed_eight_times_a_resumed_run_is_the_same(survey, capsys):
    """Run bench/kill_resume.py as a user would: SIGKILL at random moments of steps, validation and writing."""
    flags = "--scheduler cosine --cycles 2 --keep 2 --accumulate 2 --average ema_.9 --epoch_size 12"
    settings = kill_resume.Settings(str(survey), kills=8, n_epochs=26, flags=f"{' '.join(TINY)} {flags}")
    kill_resume.main(settings)
    *steps, last = capsys.readouterr().out.splitlines()
    kills = [line for line in steps if line.startswith("kill ")]  # 8, or fewer if a busy machine killed too late
    assert len(steps) == 8 or steps[len(kills)].startswith("finished before kill")
    assert last == f"{len(kills)} kills, 26 epochs: the same tensors, log, masks and set of snapshots"
