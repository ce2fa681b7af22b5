"""Training, validation and prediction loops, shared by all scripts: fit, evaluate, predict."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from net.dataset import EpochBatches, TrainingBatches, fitted, fitted_targets, normalised
from net.distributed import Processes
from net.learner import Learner
from net.losses import Loss
from net.network_kinds import RowWriter
from net.predictor import Predictor, batches_of
from net.tasks import Task
from net.tta import VIEWS, View
from utils.core.errors import UserError
from utils.core.interrupts import StopRequest
from utils.core.progress import EpochBar, progress_bar
from utils.data.packed_data import PackedImages

WHOLE = 2048**2  # images of more pixels are validated in tiles
LARGE = 512**2  # images of more pixels are predicted in smaller batches
STEPS_BETWEEN_LOSS_READS = 10  # steps after which the loss is read, because each read waits for the device


def fit(
    learner: Learner,
    loader: Iterable[tuple[Tensor, Tensor]],
    batches: EpochBatches,
    bar: EpochBar,
    stop: StopRequest,
    how_to_resume: str,
) -> tuple[float, int]:
    """Train one epoch and show the progress in `bar`; messages end with `how_to_resume`.

    Returns:
        the mean training loss over images, and the number of skipped steps.

    Raises:
        Interrupted: a signal arrived; the epoch is lost.
        UserError: the loss is not finite.
    """
    learner.network.train()
    total, seen, steps, skipped = torch.zeros((), device=learner.machine.device), 0, 0, 0
    for microbatch, (images, targets) in zip(batches.microbatches(), loader, strict=True):
        learner.processes.raise_if_stopped(stop, how_to_resume)
        learner.learn(images, targets, microbatch.batch_size)
        if not microbatch.last:
            continue
        loss, steps = learner.step(), steps + 1
        if loss is None:
            skipped += 1
        else:
            total, seen = total + loss * microbatch.batch_size, seen + microbatch.batch_size
        show_loss = seen and steps % STEPS_BETWEEN_LOSS_READS == 0
        bar.add(microbatch.batch_size, finite(float(total) / seen, bar.title, how_to_resume) if show_loss else None)
    if not seen:
        advice = "try a lower learning rate or --precision float32"
        raise UserError(f"{bar.title}: no step had a finite loss; {advice}. {how_to_resume}")
    return finite(float(total) / seen, bar.title, how_to_resume), skipped


def finite(loss: float, title: str, how_to_resume: str) -> float:
    """Return the loss; raise UserError if it is not finite."""
    if math.isfinite(loss):
        return loss
    advice = "try a lower learning rate, --grad_clip 1, --on_nan skip or --precision float32"
    raise UserError(f"{title}: the loss is {loss}; {advice}. {how_to_resume}")


def measure_statistics(learner: Learner, loader: TrainingBatches, title: str, hidden: bool = False) -> None:
    """Measure BatchNorm's statistics for the averaged weights, on the images of the epoch; `hidden` hides the bar."""
    bar = progress_bar(loader, title, hidden=hidden)
    with learner.machine.autocast():
        learner.average.measure_statistics((normalised(images) for images, _ in bar), learner.processes)


@torch.inference_mode()
def evaluate(
    predictor: Predictor,
    task: Task,
    packed: PackedImages,
    rows: np.ndarray,
    loss: Loss,
    batch_size: Callable[[tuple[int, int]], int],
    writer: RowWriter | None,
    processes: Processes,
    hidden: bool = False,
) -> dict[str, float]:
    """Return validation loss and scores over rows of the packed images, and append all predictions to `writer`.

    The batches are divided among the processes. Only process 0 needs a writer; it computes the scores, so they do not
    depend on the number of processes. `batch_size` tells how many images of a size (h, w) are in a batch, `hidden`
    hides the progress bar.
    """
    predictor.network.eval()

    def score_batch(batch: np.ndarray) -> tuple[list[float], np.ndarray]:
        shape = packed.shapes[batch[0]]
        fit_in = predictor.val(shape)
        seen = fitted(packed.images[batch], predictor.val)
        output = (predictor.output if math.prod(fit_in.frame) <= WHOLE else predictor.output_in_tiles)(seen)
        targets = fitted_targets(task, packed, batch, fit_in).to(predictor.machine.device).float()
        return loss(output, targets).tolist(), task.kind.stored(predictor.probabilities(output, shape))

    scores, batches = task.scores(), list(batches_of(rows, packed, batch_size))
    scored = processes.map_in_order(batches, score_batch)
    for batch, (losses, predictions) in progress_bar(scored, "validation", total=len(batches), hidden=hidden):
        scores.add(losses, predictions, packed, batch)
        writer.append(predictions)
    return processes.on_main(scores.means)


@torch.inference_mode()
def predict(
    predictors: Sequence[Predictor],
    packed: PackedImages,
    rows: np.ndarray,
    views: Sequence[View],
    batch_size: int,
    processes: Processes,
    best_of: Sequence[float] = (),
) -> Iterator[np.ndarray]:
    """Yield the mean probabilities over networks and views, batch by batch in the order of `rows`, as files store them.

    The batches are divided among the processes. Process 0 yields all of them, the other processes yield none. With
    `best_of`, each image is predicted at one of these scales, that at which the networks are most certain of its mask.
    """

    def probabilities(batch: np.ndarray) -> np.ndarray:
        pixels = np.asarray(packed.images[batch])
        if not best_of:
            return predictors[0].kind.stored(mean_of(predictors, pixels, views))
        found, best = None, best_scales(predictors, pixels, best_of)
        for scale in sorted(set(best)):
            same = [place for place, one in enumerate(best) if one == scale]
            mean = mean_of([one.at_scale(scale) for one in predictors], pixels[same], views)
            found = mean.new_empty(len(best), *mean.shape[1:]) if found is None else found
            found[same] = mean
        return predictors[0].kind.stored(found)

    largest = max(1, *best_of, *(one.val.scale for one in predictors))

    def images_a_batch(shape: tuple[int, int]) -> int:
        count = max(1, batch_size // len(views))  # the network sees all views of a batch at once
        return max(1, min(count, int(count * LARGE / (math.prod(shape) * largest**2))))

    batches = list(batches_of(rows, packed, images_a_batch))
    done = processes.map_in_order(batches, probabilities)
    shown = progress_bar(done, "predicting", total=len(batches), hidden=not processes.is_main)
    yield from (predictions for _, predictions in shown)


def mean_of(predictors: Sequence[Predictor], images: np.ndarray, views: Sequence[View]) -> Tensor:
    """Return the mean probabilities of images (B, h, w, C) uint8 over networks and views, as `Predictor.predict`."""
    return sum(one.predict(images, views) for one in predictors) / len(predictors)


def best_scales(predictors: Sequence[Predictor], images: np.ndarray, scales: Sequence[float]) -> list[float]:
    """Return for each image (h, w, C) uint8 of a batch the scale at which the networks are most certain of its mask.

    Objects of another magnification than in training are blurred or torn at scale 1, and certain at the scale that
    makes them as large as those in training. An image without a mask at scale 1 keeps it, so that noise that looks
    like an object at another scale is not preferred.
    """
    masks = [mean_of([one.at_scale(scale) for one in predictors], images, [VIEWS["null"]])[:, 0] for scale in scales]
    best = torch.stack([certainty(one) for one in masks]).argmax(0)
    usual = scales.index(1.0)
    best[(masks[usual] <= 0.5).all(dim=(1, 2))] = usual
    return [scales[place] for place in best.tolist()]


def certainty(masks: Tensor) -> Tensor:
    """Return the mean probability (B,) of the pixels of masks (B, h, w) float32, weighted by the probability itself."""
    return masks.square().sum((1, 2)) / masks.sum((1, 2)).clamp(min=1)
