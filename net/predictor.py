"""A trained network with the way in and the way out: what validation and every predict script use."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from net.dataset import fitted, normalised
from net.geometry import VAL_AUGS, ValAug
from net.kinds import Kind, kind_of
from net.machine import Machine
from net.outputs import Output, to_float32
from net.snapshot import Snapshot, fill, load_snapshot
from net.tiles import Tiles
from net.tta import View
from utils.core.errors import UsageError, UserError
from utils.data.packed import PackedImages


@dataclass(frozen=True)
class Predictor:
    """A network in evaluation mode and how its answers come back to the image's own size."""

    network: nn.Module
    kind: Kind
    val: ValAug
    machine: Machine
    tiles: Tiles | None = None
    """How images are cut, where they are seen in tiles."""
    at_once: int = 1
    """Tiles that the network sees at a time."""

    def output(self, images: Tensor) -> Output:
        """(B, C, S, S) uint8 -> the network's output, float32."""
        images = images.to(self.machine.device, non_blocking=True)
        with self.machine.autocast():
            output = self.network(normalised(images))
        return to_float32(output)

    def answers(self, output: Output, shape: tuple[int, int]) -> Tensor:
        """Output -> probabilities (B, K, h, w) float32 at the image's own size, or (B, K) for labels."""
        found = self.kind.probabilities(output)
        return self.val(shape).invert(found) if self.kind.of_pixels else found

    def predict(self, images: np.ndarray, views: Sequence[View]) -> Tensor:
        """Images (B, h, w, C) uint8 -> the mean of probabilities over views, (B, K, h, w) or (B, K) float32."""
        fit = self.val(images.shape[1:3])
        seen = fitted(images, fit)
        if not self.kind.of_pixels:
            return torch.stack([self.kind.probabilities(self.output(view.see(seen))) for view in views]).mean(0)
        if self.tiles is None:
            return fit.invert(self._mean(seen, views))
        planes, at_once = len(self.kind.outputs), max(1, self.at_once // len(views))
        whole = [self.tiles.blended(image, planes, lambda cut: self._mean(cut, views), at_once) for image in seen]
        return fit.invert(torch.stack(whole))

    def _mean(self, seen: Tensor, views: Sequence[View]) -> Tensor:
        """(B, C, *frame) uint8 -> (B, K, *frame) float32; views of a square are seen together."""
        if seen.shape[2] != seen.shape[3]:  # a quarter turn has another shape
            answers = [self.kind.probabilities(self.output(view.see(seen))) for view in views]
        else:
            output = self.output(torch.cat([view.see(seen) for view in views]))
            answers = self.kind.probabilities(output).chunk(len(views))
        return torch.stack([view.undo(answer) for view, answer in zip(views, answers, strict=True)]).mean(0)


def stored(answers: Tensor, kind: Kind) -> np.ndarray:
    """Probabilities as files hold them: (B, h, w) or (B, 2, h, w) float16 of pixels, (B, K) float32 of labels."""
    if not kind.of_pixels:
        return answers.float().cpu().numpy()
    half = answers.half().cpu().numpy()  # numpy's own conversion takes a tenth of the network's time
    return half[:, 0] if half.shape[1] == 1 else half


def batches_of(rows: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Rows in their order, `batch_size` at a time."""
    for start in range(0, len(rows), batch_size):
        yield rows[start : start + batch_size]


def load_predictors(
    paths: Sequence[Path], machine: Machine, packed: PackedImages, arch: str | None = None
) -> tuple[list[Predictor], list[dict[str, Any]]]:
    """Predictors for snapshot files, and what each says about itself.

    Raises:
        UsageError: `arch` is given and is not the snapshot's.
        UserError: a file that is no snapshot, was trained on images of another number of channels, or answers
            something else than the first one.
    """
    predictors, abouts = [], []
    for path in paths:
        snapshot = load_snapshot(path)
        about = snapshot.about
        if arch is not None and arch != about["arch"]:
            raise UsageError(f"--arch {arch}: {path} is a {about['arch']}; leave --arch out, the snapshot knows it")
        if about["channels_in"] != packed.channels:
            raise UserError(
                f"{path}: was trained on images of {about['channels_in']} channels, these have {packed.channels}"
            )
        kind = kind_of(about)
        if predictors and kind != predictors[0].kind:
            raise UserError(
                f"{path}: a {kind.name} net ({', '.join(kind.outputs)}), but {paths[0]} is a "
                f"{predictors[0].kind.name} net ({', '.join(predictors[0].kind.outputs)}); average nets of one kind"
            )
        network = rebuild(snapshot, path).to(machine.device, memory_format=torch.channels_last)
        if machine.compiles:
            network.compile()
        predictors.append(Predictor(network, kind, val_of(about), machine))
        abouts.append(about)
    return predictors, abouts


def val_of(about: dict[str, Any]) -> ValAug:
    """How a snapshot saw its validation images; those of before sizes could grow name no size."""
    named = VAL_AUGS[about["val_augs"]]
    return named if named.size is None else replace(named, size=about.get("size", named.size))


def rebuild(snapshot: Snapshot, path: str | Path) -> nn.Module:
    """The network of a snapshot, with its weights, in evaluation mode."""
    from net.kinds import kind_of

    about = snapshot.about
    network = kind_of(about).build(about["arch"], about["channels_in"])
    fill(network, snapshot.weights, path)
    return network.eval()
