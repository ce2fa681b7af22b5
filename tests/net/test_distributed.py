"""Several processes give the weights, scores and files of one; a dead process ends all, and any number can resume."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.scripts import ENDLESS, ROOT, TINY, end_together, free_port, run_here, start_together, succeed
from helpers.waiting import HANGS, until

from net.snapshot import load_snapshot, read
from utils.core.tables import read_table
from utils.masks.mask_file import open_masks
from utils.runs.run_folder import find_snapshots

LEARN = """
import sys
import numpy as np
import torch
from torch import nn
from net.dataset import EpochBatches
from net.loops import fit
from net.learner import Learner
from net.losses import LOSSES
from net.device import Machine
from net.optimizers import optimizer_by_name
from net.schedulers import scheduler_by_name
from net.distributed import join_processes
from utils.core.interrupts import StopRequest
from utils.core.progress import EpochBar

generator = torch.Generator().manual_seed(0)
images = torch.randint(0, 256, (23, 1, 16, 16), generator=generator, dtype=torch.uint8)
targets = (images > 128).to(torch.uint8)
torch.manual_seed(1)
network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
optimizer = optimizer_by_name(sys.argv[2])(network.parameters())
schedule = scheduler_by_name("cosine")(optimizer, 2, 3)
machine = Machine(torch.device("cpu"), torch.float32)
with join_processes() as processes:
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    learner = Learner(network, optimizer, schedule, scaler, LOSSES["BCEDice"], machine, processes, grad_clip=0.5)
    plan = EpochBatches(np.arange(23), 4, 3, accumulate=2, share=(processes.rank, processes.size))
    losses = []
    for plan.epoch in range(2):
        rows = [[row for _, row in microbatch.keys] for microbatch in plan.microbatches()]
        loader = [(images[chosen], targets[chosen]) for chosen in rows]
        losses.append(fit(learner, loader, plan, EpochBar("epoch", 23), StopRequest(), "")[0])
torch.save({"weights": torch.cat([weight.detach().flatten() for weight in network.parameters()]), "losses": losses},
           f"{sys.argv[1]}.{processes.rank}")
"""


@pytest.mark.parametrize("optimizer", ["sgd_0.1", "adam_1e-2", "muon_0.02"])
def test_two_epochs_give_the_same_weights_with_any_number_of_processes(tmp_path, optimizer):
    """float32, no BatchNorm, 23 images in batches of 8 and microbatches of 4: unequal shares, equal within 1e-5."""
    (tmp_path / "learn.py").write_text(LEARN)
    results = {}
    for number in (1, 2, 3):
        output = tmp_path / f"output_{number}"
        started = start_together(
            tmp_path / "learn.py", tmp_path / f"{number}", optimizer, output=output, processes=number
        )
        codes, outputs = end_together(started, output)
        assert codes == [0] * number, outputs
        results[number] = [read(tmp_path / f"{number}.{rank}") for rank in range(number)]
    one = results[1][0]
    for number in (2, 3):
        for other in results[number]:
            assert torch.equal(other["weights"], results[number][0]["weights"])  # all processes have the same weights
            assert (other["weights"] - one["weights"]).norm() / one["weights"].norm() < 1e-5
            assert other["losses"] == pytest.approx(one["losses"], rel=1e-5)


STATISTICS = """
import sys
import torch
from net.architectures import build_network
from net.batchnorm import share_statistics
from net.distributed import join_processes

with join_processes() as processes:
    torch.manual_seed(0)
    network = build_network("unet_tu-test_resnet", 1).double()
    images, targets = torch.randn(5, 1, 64, 64).double(), torch.rand(5, 1, 64, 64).double()
    if processes.size > 1:
        network = share_statistics(network, own_gpus=False).double()
    share = torch.arange(5).tensor_split(processes.size)[processes.rank]
    ((network.train()(images[share]) - targets[share]) ** 2).sum().backward()
    gradients = [weight.grad for weight in network.parameters()]
    processes.sum_over(gradients)
    torch.save({"gradient": torch.cat([gradient.flatten() for gradient in gradients]), **network.state_dict()},
               f"{sys.argv[1]}.{processes.rank}")
"""


def test_synchronised_statistics_are_computed_over_the_complete_batch(tmp_path):
    """float64, because in float32 two equal formulas for the gradient of a deep BatchNorm network differ by .4 %."""
    (tmp_path / "statistics.py").write_text(STATISTICS)
    results = []
    for number in (1, 2):
        started = start_together(
            tmp_path / "statistics.py", tmp_path / f"{number}", output=tmp_path / "output", processes=number
        )
        codes, outputs = end_together(started, tmp_path / "output")
        assert codes == [0] * number, outputs
        results.append(read(tmp_path / f"{number}.0"))
    one, two = results
    for name, value in one.items():
        assert (two[name].double() - value.double()).norm() <= 1e-9 * value.double().norm(), name


def test_train_py_with_two_processes_trains_as_with_one(survey, tmp_path):
    words = ("--data_dir", survey, *TINY, "--n_epochs", 2, "--sync_batchnorm", "--precision", "float32")
    done = run_here("train.py", *words, "--experiment_dir", tmp_path / "one")
    assert done.returncode == 0, done.stderr
    started = start_together("train.py", *words, "--experiment_dir", tmp_path / "two", output=tmp_path / "output")
    codes, outputs = end_together(started, tmp_path / "output")
    assert codes == [0, 0], outputs
    assert ", 2 processes | " in outputs[0]
    assert outputs[1] == ""
    logs = [read_table(tmp_path / name / "log.csv") for name in ("one", "two")]
    assert float(logs[0]["train_loss"][0]) == pytest.approx(float(logs[1]["train_loss"][0]), rel=1e-2)
    files = [
        {str(path.relative_to(tmp_path / name)) for path in (tmp_path / name).glob("*")} for name in ("one", "two")
    ]
    assert files[0] == files[1]


EVALUATE = """
import json, sys
import numpy as np
import torch
from net.loops import evaluate
from net.losses import LOSSES
from net.device import machine
from net.predictor import load_predictors
from net.tasks import mask_task
from net.distributed import join_processes
from pathlib import Path
from utils.masks.mask_file import PredictionInfo, mask_writer
from utils.core.training_settings import MachineSettings
from utils.data.packed_data import open_packed
from contextlib import nullcontext

snapshot, data, out = map(Path, sys.argv[1:])
packed = open_packed(data)
five = lambda shape: 5
with join_processes() as processes:
    (predictor,), _ = load_predictors([snapshot], machine(MachineSettings(precision="float32")), packed)
    rows = np.arange(len(packed.ids))
    writer = mask_writer(out, packed.ids, packed.shapes, PredictionInfo()) if processes.is_main else nullcontext()
    with writer as masks:
        means = evaluate(predictor, mask_task(packed), packed, rows, LOSSES["bce_lovasz"], five, masks, processes)
out.with_suffix(f".{processes.rank}.json").write_text(json.dumps(means))
"""


def test_validation_gives_the_same_scores_and_masks_with_any_number_of_processes(survey, trained, tmp_path):
    """24 images in batches of 5 with one, two and three processes: all digits of all scores, and all masks."""
    (tmp_path / "evaluate.py").write_text(EVALUATE)
    snapshot = find_snapshots([str(trained)])[0]
    scores, masks = [], []
    for number in (1, 2, 3):
        out, output = tmp_path / f"{number}.npy", tmp_path / f"output_{number}"
        started = start_together(
            tmp_path / "evaluate.py", snapshot, survey, out, output=output, processes=number, env={"OMP_NUM_THREADS": 2}
        )
        codes, outputs = end_together(started, output)
        assert codes == [0] * number, outputs
        scores += [out.with_suffix(f".{rank}.json").read_text() for rank in range(number)]
        masks.append(open_masks(out).array)
    assert len(scores) == 6
    assert len(set(scores)) == 1
    assert all(np.array_equal(masks[0], other) for other in masks[1:])


PRECISION = """
import sys
from pathlib import Path
from net import device
from net.distributed import join_processes
from utils.core.training_settings import MachineSettings

with join_processes() as processes:
    device._fast_dtype = lambda _device: device.PRECISIONS["float32" if processes.rank else "bfloat16"]
    here = device.machine(MachineSettings(device="cpu"), processes)
Path(sys.argv[1]).with_suffix(f".{processes.rank}").write_text(str(here.dtype))
"""


def test_all_processes_take_the_precision_that_the_main_one_found_fast(tmp_path):
    """A busy moment must not give them different ones."""
    (tmp_path / "precision.py").write_text(PRECISION)
    started = start_together(tmp_path / "precision.py", tmp_path / "dtype", output=tmp_path / "output")
    assert end_together(started, tmp_path / "output")[0] == [0, 0]
    assert [(tmp_path / f"dtype.{rank}").read_text() for rank in (0, 1)] == ["torch.bfloat16"] * 2


def test_several_processes_predict_the_same_file_as_one(survey, trained, tmp_path):
    words = ("--snapshot", trained, "--data_dir", survey, "--batch_size", 3, "--submission_dir", tmp_path / "sub")
    done = run_here("predict_tta.py", *words, "--masks_fn", tmp_path / "one.npy", "--fn", "one")
    assert done.returncode == 0, done.stderr
    words = (*words, "--masks_fn", tmp_path / "two.npy", "--fn", "two")
    started = start_together("predict_tta.py", *words, output=tmp_path / "output")
    codes, outputs = end_together(started, tmp_path / "output")
    assert codes == [0, 0], outputs
    assert outputs[0].count("valid: 8 rows") == 1
    assert outputs[1] == ""
    assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "two.npy").read_bytes()
    submissions = sorted((tmp_path / "sub").glob("*.csv"))
    assert len(submissions) == 2
    assert submissions[0].read_text() == submissions[1].read_text()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_dead_process_ends_all_with_one_line_and_any_number_can_resume(survey, tmp_path, victim):
    run, output = tmp_path / "run", tmp_path / "output"
    words = ("--data_dir", survey, *TINY, "--experiment_dir", run, "--sync_batchnorm")
    started = start_together("train.py", *words, "--n_epochs", ENDLESS, output=output)
    until((run / "state.pt").exists, lambda: all(process.is_alive() for process in started))
    started[victim].kill()
    codes, outputs = end_together(started, output)
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == 1
    errors = [line for line in (outputs[0] + outputs[1]).splitlines() if line.startswith("train.py: ")]
    assert len(errors) == 1
    assert "another process has ended" in errors[0]
    assert "--resume" in errors[0]
    assert "Traceback" not in outputs[0] + outputs[1]
    done = read(run / "state.pt")["progress"]["epoch"]
    resumed = run_here("train.py", *words, "--n_epochs", done + 1, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert f"epoch {done + 1}/{done + 1}" in resumed.stdout
    if victim == 1:
        started = start_together("train.py", *words, "--n_epochs", done + 2, "--resume", output=output, processes=3)
        codes, outputs = end_together(started, output)
        assert codes == [0, 0, 0], outputs
        assert len(read_table(run / "log.csv")["epoch"]) == done + 2


def test_a_signal_to_one_process_stops_all_at_the_same_step(survey, tmp_path):
    run, output = tmp_path / "run", tmp_path / "output"
    words = ("--data_dir", survey, *TINY, "--n_epochs", ENDLESS, "--experiment_dir", run)
    started = start_together("train.py", *words, output=output)
    until((run / "state.pt").exists, lambda: all(process.is_alive() for process in started))
    os.kill(started[1].pid, signal.SIGTERM)
    codes, outputs = end_together(started, output)
    assert codes == [143, 143]
    errors = [line for line in (outputs[0] + outputs[1]).splitlines() if line.startswith("train.py: ")]
    assert len(errors) == 1
    assert "run the same command with --resume to continue" in errors[0]


def test_wrong_flags_are_reported_by_one_process(survey, tmp_path):
    words = ("--data_dir", survey, *TINY, "--experiment_dir", tmp_path / "run")
    cases = [
        ((*words, "--batch_size", 2), 3, "--batch_size 2: its smallest microbatch has 2 images for 3 processes"),
        ((*words, "--fold", 9), 2, "--fold 9"),
    ]
    for number, (flags, processes, message) in enumerate(cases):
        output = tmp_path / str(number)
        codes, outputs = end_together(start_together("train.py", *flags, output=output, processes=processes), output)
        assert codes == [2] * processes
        assert "".join(outputs).count("train.py: ") == 1
        assert message in "".join(outputs)
    assert not (tmp_path / "run").exists()


def test_machines_with_different_data_are_refused(survey, tmp_path):
    """Each "machine" has a folder `data` in its own working directory; the second one is another survey."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "data").symlink_to(survey)
    other = tmp_path / "b" / "data"
    succeed("utils/make_demo.py", "--out_dir", other, "--n_train", 12, "--n_test", 4, "--seed", 2)
    succeed("utils/stack_and_save.py", "--data_dir", other)
    succeed("utils/make_folds.py", "--path", other / "train.csv", "--n", 3)
    words = ("--data_dir", "data", *TINY, "--experiment_dir", "run")
    places = [tmp_path / "a", tmp_path / "b"]
    started = start_together("train.py", *words, output=tmp_path / "output", cwd=places)
    codes, outputs = end_together(started, tmp_path / "output")
    assert codes == [1, 1]
    assert "".join(outputs).count("train.py: ") == 1
    assert "process 1 of 2: packed images: expected" in "".join(outputs)
    assert not (tmp_path / "a" / "run").exists()


def test_the_recipe_for_many_machines_trains_on_two(survey, tmp_path):
    """recipes/many_machines.sh starts two torchrun agents on loopback, with one process each."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "REHEARSE": "2"}
    words = ("--data_dir", survey, *TINY, "--n_epochs", 1, "--experiment_dir", tmp_path / "run")
    done = subprocess.run(
        ["bash", str(ROOT / "recipes" / "many_machines.sh"), *map(str, words)],
        cwd=tmp_path,
        env={**environment, "PORT": str(free_port())},
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r", 2 processes \| ", done.stdout)
    assert done.stdout.count("best: ") == 1
    weights = load_snapshot(find_snapshots([str(tmp_path / "run")])[0]).weights
    assert all(torch.isfinite(weight).all() for weight in weights.values())
