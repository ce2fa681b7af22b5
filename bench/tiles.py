"""Compare predictions in tiles with predictions of whole images, near the edges of the tiles and further inside.

python bench/tiles.py --data_dir ships --arch unet_resnet18 unet_resnet34_v1 --tile 512
python bench/tiles.py --data_dir ships --snapshot experiments/ships_fold0 --tile 256 --overlap 32

Networks of --arch have random weights; their BatchNorm statistics are measured on the images first, so that no layer
saturates.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from net.architectures import build_network
from net.dataset import normalised
from net.device import Machine
from net.geometry import VAL_AUGS
from net.network_kinds import PixelKind
from net.predictor import Predictor, load_predictors
from net.tiles import Tiles
from net.tta import views_by_name
from utils.core.cli import run
from utils.data.packed_data import PackedImages, open_packed
from utils.runs.run_folder import find_snapshots

CPU = Machine(torch.device("cpu"), torch.float32)


@dataclass(frozen=True)
class Settings:
    data_dir: str = "ships"
    """packed folder of large images, such as the one from make_demo.py --kind ships; its test images are predicted."""
    arch: tuple[str, ...] = ()
    """networks to compare with random weights."""
    snapshot: tuple[str, ...] = ()
    """trained networks to compare: snapshots or experiment folders."""
    tile: int = 512
    """side of a tile in pixels."""
    overlap: int = 64
    """number of pixels that neighbouring tiles share."""
    n_images: int = 4
    """number of test images, taken from the start."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Print one line per network: the differences of the probabilities, and the IoU of the two masks at .5."""
    packed = open_packed(settings.data_dir, "test")
    images = np.array(packed.images[: settings.n_images])
    tiles, views = Tiles(settings.tile, settings.overlap), views_by_name("null")
    near = torch.from_numpy(near_edges(tiles, packed.shape))
    print(
        f"{len(images)} images of {packed.shape[0]}x{packed.shape[1]}, tiles of {tiles.size}, overlap {tiles.overlap}"
    )
    within = f"within {tiles.overlap} px"
    print(f"{'':<34}  {'probabilities':<15}  {within:<19}  {'further inside':<19}  masks at .5")
    print(f"{'network':<34}  {'mean':>6}  {'spread':>7}  {'mean':>9} {'max':>9}  {'mean':>9} {'max':>9}  IoU of both")
    for name, predictor in predictors(settings, packed, images):
        with torch.inference_mode():
            whole = torch.cat([predictor.predict(image[None], views) for image in images])
            tiled = torch.cat([replace(predictor, tiles=tiles).predict(image[None], views) for image in images])
        difference = (tiled - whole).abs()
        places = [difference[..., place] for place in (near, ~near)]
        cells = "  ".join(f"{place.mean():9.1e} {place.max():9.1e}" for place in places)
        either, both = (tiled > 0.5) | (whole > 0.5), (tiled > 0.5) & (whole > 0.5)
        iou = float(both.sum() / either.sum()) if either.any() else 1.0
        print(f"{name[-34:]:<34}  {whole.mean():6.4f}  {whole.std():7.4f}  {cells}  {iou:.4f}", flush=True)


def near_edges(tiles: Tiles, shape: tuple[int, int]) -> np.ndarray:
    """Return (H, W) bool: the pixels closer than the overlap to the cut edge of a tile; sides are multiples of 32."""
    down, across = (np.zeros(length, dtype=bool) for length in shape)
    for near, length in zip((down, across), shape, strict=True):
        for start in tiles.starts(length):
            end = start + tiles.size
            near[start : start + tiles.overlap] |= start > 0
            near[end - tiles.overlap : end] |= end < length
    return down[:, None] | across[None, :]


def predictors(settings: Settings, packed: PackedImages, images: np.ndarray) -> Iterator[tuple[str, Predictor]]:
    """Yield the name and the predictor of each network."""
    for arch in settings.arch:
        torch.manual_seed(0)
        network = build_network(arch, packed.channels)
        measure_batchnorm(network, images)
        yield f"{arch}, random", Predictor(network.eval(), PixelKind("mask", ("mask",)), VAL_AUGS["val_native"], CPU)
    for path in find_snapshots(settings.snapshot, "--snapshot") if settings.snapshot else []:
        (predictor,), (info,) = load_predictors([Path(path)], CPU, packed)
        yield f"{info.arch}, {info.metrics['epoch']} epochs", predictor


@torch.no_grad()
def measure_batchnorm(network: nn.Module, images: np.ndarray) -> None:
    """Set the statistics of all BatchNorm layers to the mean and variance over the images."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the running statistics become the plain mean over all batches
    network.train()
    for image in images:
        network(normalised(torch.from_numpy(image[None]).permute(0, 3, 1, 2)))


if __name__ == "__main__":
    run(main, Settings)
