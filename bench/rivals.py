"""Rivals of bench/time_to_score.py: what people would train instead, each for a given time.

A rival takes a Work and returns the probabilities of the validation images. Its time counts from the first line of its
training loop, without imports. Learning rates follow the share of the time that has passed, so every schedule ends with
the time. Lightning and fastai are in bench/rival_frameworks.py, because they need extra packages.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import albumentations as A
import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from net.device import Machine, machine
from net.geometry import Fit
from utils.core.training_settings import MachineSettings
from utils.data.folds import fold_rows
from utils.data.packed_data import PackedImages, open_packed

BATCH, STRIDE, LARGEST = 32, 32, 256


@dataclass(frozen=True)
class Work:
    """One training: images, fold, time and seed."""

    folder: Path
    fold: int
    seconds: float
    seed: int
    crops: bool = False
    """Train on random crops at the scale of the images, half of them with foreground, and predict whole images."""

    @cached_property
    def packed(self) -> PackedImages:
        return open_packed(self.folder)

    @cached_property
    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the packed images to train on, and those to validate on."""
        return fold_rows(self.folder, self.packed.ids, self.fold)

    @property
    def size(self) -> int:
        """Side of the square input: that of the images up to the next multiple of 32, at most 256."""
        if self.crops:
            return min(LARGEST, min(self.packed.shape) // STRIDE * STRIDE)
        return min(LARGEST, -(-max(self.packed.shape) // STRIDE) * STRIDE)

    @property
    def fit(self) -> Fit:
        """Position of whole images in the input of the network."""
        return Fit.native(self.packed.shape) if self.crops else Fit.stretched(self.packed.shape, self.size)

    def training_images(self) -> "TrainingImages":
        return TrainingImages(self)

    def validation_images(self) -> Iterator[Tensor]:
        """Yield batches of validation images at the input size, normalised, (B, C, H, W)."""
        batch = min(BATCH, max(1, BATCH * LARGEST**2 // math.prod(self.fit.frame)))
        for rows in np.array_split(self.rows[1], -(-len(self.rows[1]) // batch)):
            yield torch.stack([as_input(self.fit.apply(self.packed.images[row])) for row in rows])

    def predicted(self, network: Callable[[Tensor], Tensor]) -> np.ndarray:
        """Return the probabilities (N, h, w) float16 of the validation images, mean of image and mirror image."""
        found, fit = [], self.fit
        with torch.inference_mode():
            for images in self.validation_images():
                plain, mirrored = (torch.sigmoid(network(one).float()) for one in (images, images.flip(3)))
                mean = (plain + mirrored.flip(3)) / 2
                inner = mean[..., fit.top : fit.top + fit.height, fit.left : fit.left + fit.width]
                full = F.interpolate(inner, self.packed.shape, mode="bilinear", antialias=True)
                found.append(full[:, 0].clamp(0, 1).cpu().numpy().astype(np.float16))
        return np.concatenate(found)


class TrainingImages(Dataset[tuple[Tensor, Tensor]]):
    """Resized or cropped, augmented images, normalised, and masks, (C, S, S) and (1, S, S) float32."""

    def __init__(self, work: Work) -> None:
        self.packed, self.rows, self.fit = work.packed, work.rows[0], None if work.crops else work.fit
        square = work.size, work.size
        crop = A.OneOf([A.RandomCrop(*square), A.CropNonEmptyMaskIfExists(*square)], p=1)
        self.change = A.Compose(
            [
                *([crop] if work.crops else []),
                A.HorizontalFlip(),
                A.Affine(scale=(0.8, 1.2), translate_percent=(-0.1, 0.1), rotate=(-10, 10), border_mode=2, p=0.7),
                A.RandomBrightnessContrast(p=0.5),
            ],
            seed=work.seed,
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        row = self.rows[index]
        image, mask = self.packed.images[row], self.packed.masks[row][..., None]
        if self.fit:
            image, mask = self.fit.scale(image), self.fit.scale(mask, nearest=True)
        changed = self.change(image=image, mask=mask)
        return as_input(changed["image"]), torch.from_numpy(changed["mask"].transpose(2, 0, 1)).float()


def as_input(image: np.ndarray) -> Tensor:
    """Normalise an image (S, S, C) uint8 to a tensor (C, S, S) around zero."""
    return (torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255 - 0.449) / 0.226


def shares(seconds: float) -> Iterator[float]:
    """Yield the share of the time that has passed, 0 to 1, until the time is over."""
    started = time.perf_counter()
    while (share := (time.perf_counter() - started) / seconds) < 1:
        yield share


def endless(loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of epoch after epoch."""
    while True:
        yield from loader


def one_cycle(share: float, highest: float) -> float:
    """Return the learning rate of torch's OneCycleLR at a share of the training, with its default numbers."""
    start, end, rising = highest / 25, highest / 25e4, 0.3
    low, high, done = (start, highest, share / rising) if share < rising else (end, highest, 1 - (share - rising) / 0.7)
    return low + (high - low) * (1 - np.cos(np.pi * done)) / 2


def bce_dice(logits: Tensor, targets: Tensor) -> Tensor:
    """Return binary cross-entropy + Dice loss of a batch."""
    probabilities = torch.sigmoid(logits)
    overlap, both = (probabilities * targets).sum((1, 2, 3)), (probabilities + targets).sum((1, 2, 3))
    return F.binary_cross_entropy_with_logits(logits, targets) + (1 - (2 * overlap + 1) / (both + 1)).mean()


def plain_smp(work: Work, encoder: str, best: bool) -> np.ndarray:
    """Train smp's U-Net with AdamW, one cycle to 1e-3, BCE + Dice.

    Args:
        work: images, fold, time and seed.
        encoder: of smp; its weights start at random.
        best: use bfloat16 where it is faster, and channels last; otherwise float32.
    """
    torch.manual_seed(work.seed)
    here = machine(MachineSettings(precision="auto" if best else "float32"))
    network = smp.Unet(encoder, encoder_weights=None, in_channels=work.packed.channels, classes=1).to(here.device)
    network = network.to(memory_format=torch.channels_last if best else torch.contiguous_format)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=best)
    _fit(work, network, optimizer, here, lambda share: one_cycle(share, 1e-3), bce_dice)
    return work.predicted(_predictor(network, here))


def nnunet(work: Work) -> np.ndarray:
    """Train the plain network of nnU-Net with its loss, optimizer and schedule (Isensee et al. 2021)."""
    torch.manual_seed(work.seed)
    here = machine(MachineSettings())
    network = PlainUNet(work.packed.channels, work.size).to(here.device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5)
    _fit(work, network, optimizer, here, lambda share: 1e-2 * (1 - share) ** 0.9, _deep_loss, batch=12, clip=12)
    return work.predicted(_predictor(network, here))


def _fit(
    work: Work,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    here: Machine,
    rate: Callable[[float], float],
    loss: Callable[[Tensor, Tensor], Tensor],
    batch: int = BATCH,
    clip: float = float("inf"),
) -> None:
    """Train for the time of the work with batches of `batch` images; `clip` is the largest norm of the gradient."""
    batches = endless(DataLoader(work.training_images(), batch, shuffle=True, drop_last=len(work.rows[0]) > batch))
    network.train()
    for share in shares(work.seconds):
        images, targets = (tensor.to(here.device) for tensor in next(batches))
        optimizer.param_groups[0]["lr"] = rate(share)
        optimizer.zero_grad()
        with here.autocast():
            output = network(images)
        loss(output, targets).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()


def _predictor(network: nn.Module, here: Machine) -> Callable[[Tensor], Tensor]:
    network.eval()

    def predict(images: Tensor) -> Tensor:
        with here.autocast():
            return network(images.to(here.device))

    return predict


class PlainUNet(nn.Module):
    """nnU-Net's plain U-Net: two convolutions a level with instance norm and leaky ReLU, strided and transposed ones.

    It has 32 features at full size, twice as many at each level, at most 320, down to 4 pixels or more; in training it
    returns logits of every level but the two deepest.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        levels = max(2, min(7, int(np.log2(size / 4)) + 1))
        widths = [min(320, 32 * 2**level) for level in range(levels)]
        before = [channels, *widths]
        strides = [1] + [2] * (levels - 1)
        self.down = nn.ModuleList(map(_pair, before, widths, strides))
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(deeper, width, 2, 2) for deeper, width in pairs)
        self.up = nn.ModuleList(_pair(2 * width, width, 1) for _, width in pairs)
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1) for _, width in pairs)

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Return the logits (B, 1, S, S); in training those of several levels, full size first."""
        maps = []
        x = images
        for block in self.down:
            x = block(x)
            maps.append(x)
        outputs = []
        for enlarge, block, head, skip in zip(self.enlarge, self.up, self.heads, maps[-2::-1], strict=True):
            x = block(torch.cat([enlarge(x), skip], dim=1))
            outputs.append(head(x))
        return outputs[:0:-1] or outputs if self.training else outputs[-1]


def _pair(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inner, step in ((channels_in, stride), (channels_out, 1)):
        layers += [nn.Conv2d(inner, channels_out, 3, step, 1), nn.InstanceNorm2d(channels_out, affine=True)]
        layers += [nn.LeakyReLU(0.01, inplace=True)]
    return nn.Sequential(*layers)


def _deep_loss(outputs: list[Tensor], targets: Tensor) -> Tensor:
    """Return BCE + Dice at every level, each with half the weight of the one above it."""
    weights = np.array([0.5**level for level in range(len(outputs))])
    total = 0.0
    for weight, output in zip(weights / weights.sum(), outputs, strict=True):
        total = total + weight * bce_dice(output.float(), F.adaptive_max_pool2d(targets, output.shape[-2:]))
    return total


RIVALS: dict[str, Callable[[Work], np.ndarray]] = {
    "smp_resnet18": lambda work: plain_smp(work, "resnet18", best=False),
    "smp_resnet18_fast": lambda work: plain_smp(work, "resnet18", best=True),
    "smp_resnet18_crops": lambda work: plain_smp(replace(work, crops=True), "resnet18", best=True),
    "smp_resnet34": lambda work: plain_smp(work, "resnet34", best=False),
    "smp_resnet34_fast": lambda work: plain_smp(work, "resnet34", best=True),
    "nnunet": nnunet,
}
"""Rivals that need no extra packages."""
