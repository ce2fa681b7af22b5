"""The only loops in the repository: fit, evaluate, predict."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader

from net.dataset import EpochBatches, fitted, fitted_targets, normalised
from net.distributed import Processes
from net.learner import Learner
from net.losses import Loss
from net.network_kinds import RowWriter
from net.predictor import Predictor, batches_of
from net.tasks import Task
from net.tta import View
from utils.core.errors import UserError
from utils.core.interrupts import StopRequest
from utils.core.progress import EpochBar, progress_bar
from utils.data.packed_data import PackedImages

STEPS_BETWEEN_LOOKS = 10  # reading the loss waits for the device


def fit(
    learner: Learner, loader: DataLoader, batches: EpochBatches, bar: EpochBar, stop: StopRequest, how_to_go_on: str
) -> tuple[float, int]:
    """Train one epoch, telling `bar` how far it is.

    Returns:
        the mean training loss over images, and the number of steps that were skipped.

    Raises:
        Interrupted: a signal came; the epoch is lost.
        UserError: the loss is not a finite number.
    """
    learner.network.train()
    total, seen, steps, skipped = torch.zeros((), device=learner.machine.device), 0, 0, 0
    for part, (images, targets) in zip(batches.microbatches(), loader, strict=True):
        learner.processes.obey_stop(stop, how_to_go_on)
        learner.learn(images, targets, part.batch_size)
        if not part.last:
            continue
        loss, steps = learner.step(), steps + 1
        if loss is None:
            skipped += 1
        else:
            total, seen = total + loss * part.batch_size, seen + part.batch_size
        looks = seen and steps % STEPS_BETWEEN_LOOKS == 0
        bar.add(part.batch_size, finite(float(total) / seen, bar.title, how_to_go_on) if looks else None)
    if not seen:
        advice = "try a lower rate or --precision float32"
        raise UserError(f"{bar.title}: no step had a finite loss; {advice}. {how_to_go_on}")
    return finite(float(total) / seen, bar.title, how_to_go_on), skipped


def finite(loss: float, title: str, how_to_go_on: str) -> float:
    """The loss, unless it is none to go on with: then UserError."""
    if math.isfinite(loss):
        return loss
    advice = "try a lower rate, --grad_clip 1, --on_nan skip or --precision float32"
    raise UserError(f"{title}: the loss is {loss}; {advice}. {how_to_go_on}")


def measure_statistics(learner: Learner, loader: DataLoader, title: str, hidden: bool = False) -> None:
    """Measure BatchNorm's statistics anew for averaged weights, on the images of the epoch; `hidden`: without a bar."""
    device, bar = learner.machine.device, progress_bar(loader, title, hidden=hidden)
    with learner.machine.autocast():
        learner.average.measure_statistics((normalised(images.to(device)) for images, _ in bar), learner.processes)


@torch.inference_mode()
def evaluate(
    predictor: Predictor,
    task: Task,
    packed: PackedImages,
    rows: np.ndarray,
    loss: Loss,
    batch_size: int,
    writer: RowWriter | None,
    processes: Processes,
    hidden: bool = False,
) -> dict[str, float]:
    """Return validation loss and scores over rows of the packed images; every prediction goes to `writer`.

    The processes share the batches, and the main one, which alone needs a writer, adds up: the same numbers for any
    number of processes. With `hidden` no bar is shown.
    """
    fit_in = predictor.val(packed.shape)
    predictor.network.eval()

    def judge(batch: np.ndarray) -> tuple[list[float], np.ndarray]:
        output = predictor.output(fitted(packed.images[batch], fit_in))
        wanted = fitted_targets(task, packed, batch, fit_in).to(predictor.machine.device).float()
        return loss(output, wanted).tolist(), task.kind.stored(predictor.probabilities(output, packed.shape))

    scores, batches = task.scores(), list(batches_of(rows, batch_size))
    judged = processes.map_in_order(batches, judge)
    for batch, (losses, predictions) in progress_bar(judged, "validation", total=len(batches), hidden=hidden):
        scores.add(losses, predictions, packed, batch)
        writer.append(predictions)
    return processes.on_main(scores.means)


@torch.inference_mode()
def predict(
    predictors: Sequence[Predictor],
    images: np.ndarray,
    rows: np.ndarray,
    views: Sequence[View],
    batch_size: int,
    processes: Processes,
) -> Iterator[np.ndarray]:
    """Yield the mean of probabilities over networks and views, in the order of `rows`, as files hold it.

    The processes share the batches; the main one gets them all, the others none.
    """

    def mean(batch: np.ndarray) -> np.ndarray:
        pixels = images[batch]
        probabilities = sum(predictor.predict(pixels, views) for predictor in predictors) / len(predictors)
        return predictors[0].kind.stored(probabilities)

    images_a_batch = max(1, batch_size // len(views))  # the network sees all views of a batch at once
    batches = list(batches_of(rows, images_a_batch))
    done = processes.map_in_order(batches, mean)
    turns = progress_bar(done, "predicting", total=len(batches), hidden=not processes.is_main)
    yield from (predictions for _, predictions in turns)
