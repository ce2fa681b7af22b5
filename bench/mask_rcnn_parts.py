"""torchvision's Mask R-CNN on packed images: the networks, what they learn from, the loop, and what they detect."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from bench.mask_rcnn_objects import Found
from net.device import Machine
from utils.core.errors import UserError

MOST_OBJECTS = 400  # an image of the nuclei has up to 375; torchvision's default, 100, would cut 65 images short
WARM_UP = 0.05  # of the time
LONGEST_GRADIENT = 5.0
SECONDS_A_LINE = 30
NARROW = 128


def small(**common: Any) -> MaskRCNN:
    """resnet18; FPN and heads half as wide as the default, a quarter of its boxes in a step: more steps in the time.

    An image of 256x256 takes 40 GFLOP forward and back; with FPN and heads of the default width it would take 118.
    """
    layers = {f"layer{stage}": str(stage - 1) for stage in range(1, 5)}
    return MaskRCNN(
        BackboneWithFPN(resnet18(weights=None), layers, [64, 128, 256, 512], NARROW),
        box_head=TwoMLPHead(NARROW * 7**2, 512),
        box_predictor=FastRCNNPredictor(512, 2),
        mask_head=MaskRCNNHeads(NARROW, (NARROW, NARROW), 1),
        mask_predictor=MaskRCNNPredictor(NARROW, NARROW, 2),
        box_batch_size_per_image=128,
        **common,
    )


def resnet50(**common: Any) -> MaskRCNN:
    """`maskrcnn_resnet50_fpn`; without weights torchvision trains all its layers, with BatchNorm2d."""
    return maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2, **common)


MODELS: dict[str, Callable[..., MaskRCNN]] = {"small": small, "resnet50": resnet50}


def build(name: str, shape: tuple[int, int], machine: Machine) -> MaskRCNN:
    """A network of random weights for images of one size, with anchors of 8 to 128 px for nuclei of 5 to 80.

    BatchNorm is not frozen, as it is where weights come from ImageNet: frozen at mean 0 and variance 1 it would do
    nothing, and a ResNet without normalisation hardly learns. In bfloat16 run the backbone and the heads' layers, the
    bulk of the arithmetic; box coordinates stay float32, as in bfloat16 those from 128 on are whole pixels.
    """
    anchors = AnchorGenerator(sizes=((8,), (16,), (32,), (64,), (128,)), aspect_ratios=((0.5, 1.0, 2.0),) * 5)
    model = MODELS[name](
        min_size=min(shape), max_size=max(shape), rpn_anchor_generator=anchors, box_detections_per_img=MOST_OBJECTS
    )
    model.backbone = Fast(model.backbone, machine)
    model.rpn.head = Fast(model.rpn.head, machine)
    model.roi_heads.box_head = Fast(model.roi_heads.box_head, machine)
    model.roi_heads.mask_head = Fast(model.roi_heads.mask_head, machine)
    return model.to(machine.device)


class Fast(nn.Module):
    """A part of a network in the machine's precision and with channels last; what it gives out is float32."""

    def __init__(self, part: nn.Module, machine: Machine) -> None:
        super().__init__()
        self.part, self.machine = part.to(memory_format=torch.channels_last), machine

    def forward(self, inputs: Any) -> Any:
        with self.machine.autocast():
            return _of_each(self.part(_of_each(inputs, _channels_last)), Tensor.float)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _of_each(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """`function` of every tensor in a tensor, a dictionary, or lists of them."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {name: _of_each(one, function) for name, one in value.items()}
    return type(value)(_of_each(one, function) for one in value)


def image_tensor(image: np.ndarray) -> Tensor:
    """(H, W, 1 or 3) uint8 -> (3, H, W) float32, [0, 1]; grey is repeated."""
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return tensor.expand(3, -1, -1).contiguous()


def target_of(labels: np.ndarray) -> dict[str, Tensor]:
    """What Mask R-CNN learns from.

    Args:
        labels: (H, W) integers, 0 = background; the numbers may have gaps.

    Returns:
        boxes (K, 4) float32, x and y of the upper left and lower right corner (bench/mask_rcnn_objects.py says in which
        coordinates); labels (K,) int64, all 1; masks (K, H, W) uint8, 0 or 1; in ascending order of the numbers.
    """
    masks = labels == np.setdiff1d(labels, [0])[:, None, None]
    edges = []
    for along, size in ((masks.any(axis=1), labels.shape[1]), (masks.any(axis=2), labels.shape[0])):  # across, down
        edges += [along.argmax(axis=1) - 0.5, size - along[:, ::-1].argmax(axis=1) - 0.5]
    left, right, top, bottom = edges
    return {
        "boxes": torch.from_numpy(np.stack([left, top, right, bottom], axis=1).astype(np.float32)),
        "labels": torch.ones(len(masks), dtype=torch.int64),
        "masks": torch.from_numpy(masks.astype(np.uint8)),
    }


def batches(rows: np.ndarray, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Rows in batches of `size` without end: every row once, in random order, before any comes again."""
    waiting = rows[:0]
    while True:
        while len(waiting) < size:
            waiting = np.concatenate([waiting, rng.permutation(rows)])
        yield waiting[:size]
        waiting = waiting[size:]


def turned(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image and label map in one of their eight positions: quarter turns, mirrored or not."""
    quarters, mirrored = int(rng.integers(4)), bool(rng.integers(2))
    image, labels = np.rot90(image, quarters), np.rot90(labels, quarters)
    return (image[:, ::-1], labels[:, ::-1]) if mirrored else (image, labels)


@dataclass
class Trained:
    """What a training took and reached."""

    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    loss: float = float("nan")
    """mean over the steps since the last line of the log."""


def train(
    model: MaskRCNN, images: np.ndarray, labels: np.ndarray, rows: np.ndarray, settings: Any, device: torch.device
) -> Trained:
    """Train by AdamW until the time is over; the rate rises linearly over the first 5 % of it, then falls as a cosine.

    Args:
        model: from `build`, on `device`.
        images: (N, H, W, C) uint8, [0, 255].
        labels: (N, H, W) uint16.
        rows: those of the two to learn from.
        settings: has minutes, max_steps (0: no limit), batch_size, rate and seed.
        device: where the model is.

    Raises:
        UserError: the loss is not finite.
    """
    rng = np.random.default_rng(settings.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.rate)
    source, done, losses = batches(rows, settings.batch_size, rng), Trained(), []
    model.train()
    start = said = time.perf_counter()
    while (share := _share(done, settings)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * rate_at(share)
        pairs = [turned(images[row], labels[row], rng) for row in next(source)]
        losses.append(_step(model, optimizer, pairs, device))
        done.steps, done.images = done.steps + 1, done.images + len(pairs)
        done.seconds, done.loss = time.perf_counter() - start, float(np.mean(losses))
        if not np.isfinite(done.loss):
            raise UserError(f"the loss of step {done.steps} is {losses[-1]}; a lower --rate may help")
        if time.perf_counter() - said >= SECONDS_A_LINE:
            print(as_line(done, settings.minutes), flush=True)
            said, losses = time.perf_counter(), []
    return done


def _share(done: Trained, settings: Any) -> float:
    by_steps = done.steps / settings.max_steps if settings.max_steps else 0.0
    return max(done.seconds / (60 * settings.minutes), by_steps)


def rate_at(share: float) -> float:
    """The rate, as a part of its highest, when `share` (0..1) of the training is over."""
    if share < WARM_UP:
        return 0.01 + 0.99 * share / WARM_UP
    return 0.5 + 0.5 * float(np.cos(np.pi * (share - WARM_UP) / (1 - WARM_UP)))


def _step(
    model: MaskRCNN, optimizer: torch.optim.Optimizer, pairs: Sequence[tuple[np.ndarray, np.ndarray]], device: Any
) -> float:
    """One update; returns the sum of torchvision's five losses."""
    targets = [{name: one.to(device) for name, one in target_of(labels).items()} for _, labels in pairs]
    loss = sum(model([image_tensor(image).to(device) for image, _ in pairs], targets).values())
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), LONGEST_GRADIENT)
    optimizer.step()
    return loss.item()


def as_line(done: Trained, minutes: float) -> str:
    """A line of the log."""
    speed = done.images / max(done.seconds, 1e-9)
    return (
        f"{done.seconds / 60:5.1f} of {minutes:g} min: {done.steps} steps, loss {done.loss:.3f}, {speed:.2f} images/s"
    )


@torch.inference_mode()
def detect(model: MaskRCNN, images: np.ndarray, rows: np.ndarray, batch_size: int, device: Any) -> Iterator[Found]:
    """The detections in each of `rows`, in order, of (N, H, W, C) uint8 images."""
    model.eval()
    for start in range(0, len(rows), batch_size):
        batch = [image_tensor(images[row]).to(device) for row in rows[start : start + batch_size]]
        inputs, _ = model.transform(batch)  # what model(batch) does, but for pasting masks into whole images
        features = model.backbone(inputs.tensors)
        proposals, _ = model.rpn(inputs, features)
        for found in model.roi_heads(features, proposals, inputs.image_sizes)[0]:
            order = torch.argsort(found["scores"], descending=True, stable=True)
            boxes, scores, masks = (found[name][order].cpu().numpy() for name in ("boxes", "scores", "masks"))
            yield Found(boxes, scores, masks[:, 0].astype(np.float16))
