"""Rivals of bench/time_to_score.py that need extra packages, each trained as its own documentation advises.

Lightning: the example of smp's documentation (Adam 2e-4, cosine, Dice loss), with U-Net resnet34.
fastai: `unet_learner` with resnet34 and `fit_one_cycle` at fastai's default rate. Both start from random weights.
"""

import logging
import time
import warnings
from collections.abc import Callable

import fastai.callback.schedule  # noqa: F401 - adds fit_one_cycle to learners
import numpy as np
import pytorch_lightning as lightning
import segmentation_models_pytorch as smp
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.data.core import DataLoaders
from fastai.losses import BCEWithLogitsLossFlat
from fastai.vision.learner import unet_learner
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.models import resnet34

from bench.rivals import BATCH, Work


class Example(lightning.LightningModule):
    """The module of smp's example; its cosine follows the share of the time."""

    def __init__(self, channels: int, share: Callable[[], float]) -> None:
        super().__init__()
        self.network = smp.Unet("resnet34", encoder_weights=None, in_channels=channels, classes=1)
        self.loss, self.share = smp.losses.DiceLoss(smp.losses.BINARY_MODE, from_logits=True), share

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        images, targets = batch
        return self.loss(self.network(images), targets)

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.Adam(self.parameters(), lr=2e-4)
        least = 1e-5 / 2e-4
        cosine = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda _step: least + (1 - least) * (1 + np.cos(np.pi * self.share())) / 2
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}


def train_lightning(work: Work) -> np.ndarray:
    """Train smp's example with Lightning's Trainer for the time of the work."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    lightning.seed_everything(work.seed, verbose=False)
    started = time.perf_counter()
    module = Example(work.packed.channels, lambda: min(1.0, (time.perf_counter() - started) / work.seconds))
    trainer = lightning.Trainer(
        max_epochs=-1,
        max_time={"seconds": work.seconds},
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(work.training_images(), BATCH, shuffle=True))
    module.eval()
    return work.predicted(module)


class ByTime(Callback):
    """Let fastai's schedules follow the share of the time, and end the training when it is over."""

    order = 50  # before ParamScheduler, which reads pct_train

    def __init__(self, seconds: float) -> None:
        self.seconds, self.started = seconds, time.perf_counter()

    def before_batch(self) -> None:
        share = (time.perf_counter() - self.started) / self.seconds
        if share >= 1:
            raise CancelFitException
        self.learn.pct_train = share


def train_fastai(work: Work) -> np.ndarray:
    """Train a `unet_learner` by `fit_one_cycle` for the time of the work."""
    torch.manual_seed(work.seed)
    data = DataLoaders.from_dsets(work.training_images(), bs=BATCH, num_workers=0)
    learner = unet_learner(
        data, resnet34, pretrained=False, n_in=work.packed.channels, n_out=1, loss_func=BCEWithLogitsLossFlat()
    )
    with learner.no_logging(), learner.no_bar():
        learner.fit_one_cycle(10**6, cbs=ByTime(work.seconds))
    network = learner.model.eval()
    device = next(network.parameters()).device
    return work.predicted(lambda images: network(images.to(device)))


RIVALS: dict[str, Callable[[Work], np.ndarray]] = {
    "lightning": train_lightning,
    "fastai": train_fastai,
}
