"""torchvision's Mask R-CNN on packed images: networks, targets, training loop and detection."""

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

MOST_OBJECTS = 400  # images of nuclei have up to 375; torchvision's default, 100, would be too few for 65 images
WARM_UP = 0.05  # share of the training time
LONGEST_GRADIENT = 5.0
SECONDS_A_LINE = 30
NARROW = 128


def small(**common: Any) -> MaskRCNN:
    """Build a Mask R-CNN on resnet18, with FPN and heads of half the default width and a quarter of its boxes per step.

    The smaller network takes more steps in the same time. The forward and backward pass of a 256x256 image takes
    40 GFLOP; with FPN and heads of the default width it would take 118.
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
    """Build `maskrcnn_resnet50_fpn`; without weights torchvision trains all its layers, with BatchNorm2d."""
    return maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2, **common)


MODELS: dict[str, Callable[..., MaskRCNN]] = {"small": small, "resnet50": resnet50}


def build(name: str, shape: tuple[int, int], machine: Machine) -> MaskRCNN:
    """Build a network with random weights for images of one size, with anchors of 8 to 128 px for nuclei of 5 to 80 px.

    BatchNorm is not frozen, unlike in networks with ImageNet weights: frozen at mean 0 and variance 1 it would do
    nothing, and a ResNet without normalisation hardly learns. The backbone and the layers of the heads, which do most
    of the arithmetic, run in the machine's precision. Box coordinates stay float32 because in bfloat16 coordinates from
    128 on are whole pixels.
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
    """A part of a network that runs in the machine's precision with channels last, and returns float32."""

    def __init__(self, part: nn.Module, machine: Machine) -> None:
        super().__init__()
        self.part, self.machine = part.to(memory_format=torch.channels_last), machine

    def forward(self, inputs: Any) -> Any:
        with self.machine.autocast():
            return _of_each(self.part(_of_each(inputs, _channels_last)), Tensor.float)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _of_each(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply `function` to a tensor, or to every tensor in a dictionary or sequence, nested or not."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {name: _of_each(one, function) for name, one in value.items()}
    return type(value)(_of_each(one, function) for one in value)


def image_tensor(image: np.ndarray) -> Tensor:
    """Convert an image (H, W, 1 or 3) uint8 to (3, H, W) float32, [0, 1]; a grey channel is repeated."""
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return tensor.expand(3, -1, -1).contiguous()


def target_of(labels: np.ndarray) -> dict[str, Tensor]:
    """Return the training target of Mask R-CNN for an image.

    Args:
        labels: (H, W) integers, 0 = background; the numbers may have gaps.

    Returns:
        boxes (K, 4) float32, x and y of the upper left and lower right corner (bench/mask_rcnn_objects.py describes the
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
    """Yield batches of `size` rows without end: every row once, in random order, before any row is repeated."""
    waiting = rows[:0]
    while True:
        while len(waiting) < size:
            waiting = np.concatenate([waiting, rng.permutation(rows)])
        yield waiting[:size]
        waiting = waiting[size:]


def turned(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return image and label map in one of eight random orientations: quarter turns, mirrored or not."""
    quarters, mirrored = int(rng.integers(4)), bool(rng.integers(2))
    image, labels = np.rot90(image, quarters), np.rot90(labels, quarters)
    return (image[:, ::-1], labels[:, ::-1]) if mirrored else (image, labels)


@dataclass
class Trained:
    """Progress of a training."""

    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    loss: float = float("nan")
    """Mean over the steps since the last line of the log."""


def train(
    model: MaskRCNN, images: np.ndarray, labels: np.ndarray, rows: np.ndarray, settings: Any, device: torch.device
) -> Trained:
    """Train with AdamW until the time is over.

    The learning rate rises linearly over the first 5 % of the time, then falls along a cosine.

    Args:
        model: from `build`, on `device`.
        images: (N, H, W, C) uint8, [0, 255].
        labels: (N, H, W) uint16.
        rows: rows of `images` and `labels` to train on.
        settings: object with the attributes minutes, max_steps (0: no limit), batch_size, rate and seed.
        device: device of the model.

    Raises:
        UserError: the loss is not finite.
    """
    rng = np.random.default_rng(settings.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.rate)
    source, done, losses = batches(rows, settings.batch_size, rng), Trained(), []
    model.train()
    start = logged = time.perf_counter()
    while (share := _share(done, settings)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * rate_at(share)
        pairs = [turned(images[row], labels[row], rng) for row in next(source)]
        losses.append(_step(model, optimizer, pairs, device))
        done.steps, done.images = done.steps + 1, done.images + len(pairs)
        done.seconds, done.loss = time.perf_counter() - start, float(np.mean(losses))
        if not np.isfinite(done.loss):
            raise UserError(f"step {done.steps}: expected a finite loss, found {losses[-1]}; try a lower --rate")
        if time.perf_counter() - logged >= SECONDS_A_LINE:
            print(as_line(done, settings.minutes), flush=True)
            logged, losses = time.perf_counter(), []
    return done


def _share(done: Trained, settings: Any) -> float:
    by_steps = done.steps / settings.max_steps if settings.max_steps else 0.0
    return max(done.seconds / (60 * settings.minutes), by_steps)


def rate_at(share: float) -> float:
    """Return the learning rate as a fraction of its peak, when `share` (0..1) of the training is over."""
    if share < WARM_UP:
        return 0.01 + 0.99 * share / WARM_UP
    return 0.5 + 0.5 * float(np.cos(np.pi * (share - WARM_UP) / (1 - WARM_UP)))


def _step(
    model: MaskRCNN, optimizer: torch.optim.Optimizer, pairs: Sequence[tuple[np.ndarray, np.ndarray]], device: Any
) -> float:
    """Update the weights once; return the sum of torchvision's five losses."""
    targets = [{name: one.to(device) for name, one in target_of(labels).items()} for _, labels in pairs]
    loss = sum(model([image_tensor(image).to(device) for image, _ in pairs], targets).values())
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), LONGEST_GRADIENT)
    optimizer.step()
    return loss.item()


def as_line(done: Trained, minutes: float) -> str:
    """Return the progress as a line of the log."""
    speed = done.images / max(done.seconds, 1e-9)
    return (
        f"{done.seconds / 60:5.1f} of {minutes:g} min: {done.steps} steps, loss {done.loss:.3f}, {speed:.2f} images/s"
    )


@torch.inference_mode()
def detect(model: MaskRCNN, images: np.ndarray, rows: np.ndarray, batch_size: int, device: Any) -> Iterator[Found]:
    """Yield the detections in each of `rows`, in order, of (N, H, W, C) uint8 images."""
    model.eval()
    for start in range(0, len(rows), batch_size):
        batch = [image_tensor(images[row]).to(device) for row in rows[start : start + batch_size]]
        inputs, _ = model.transform(batch)  # like model(batch), without pasting masks into whole images
        features = model.backbone(inputs.tensors)
        proposals, _ = model.rpn(inputs, features)
        for found in model.roi_heads(features, proposals, inputs.image_sizes)[0]:
            order = torch.argsort(found["scores"], descending=True, stable=True)
            boxes, scores, masks = (found[name][order].cpu().numpy() for name in ("boxes", "scores", "masks"))
            yield Found(boxes, scores, masks[:, 0].astype(np.float16))
