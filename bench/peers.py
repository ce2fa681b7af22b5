"""Contenders of bench/throughput.py that need extra packages: pytorch-lightning, fastai, pytorch-argus.

`make bench-env` installs the packages. Each contender uses its own loop; at its best, it uses bfloat16 where that is
fast, channels last and fused Adam. Lightning has a switch for the precision. fastai's switch works on CUDA only (its
autocast names that device and does nothing on a CPU), and argus has none. Their networks are therefore wrapped in
`bench.contenders.Autocast`.
"""

import logging
import warnings
from functools import partial
from typing import Any

import argus
import pytorch_lightning as lightning
import torch
from fastai.callback.core import Callback, CancelEpochException
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import Learner
from fastai.optimizer import Adam, OptimWrapper
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from bench.contenders import BATCH, RATE, Contender, Setup, Stopwatch, TestImages, TrainingImages, loader, network
from net.device import workers_for


class Lightning(Contender):
    """A LightningModule, with a new Trainer in each round because a Trainer does not reset its count of epochs."""

    def __init__(self, setup: Setup, best: bool) -> None:
        super().__init__(setup, best)
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)  # hide the devices found, and tips
        warnings.filterwarnings("ignore", module="pytorch_lightning")  # about the default of num_workers
        self.module = LightningUNet(network(setup.machine, best, autocast=False), fused=best)
        self.callback = LightningWatch(self.watch)
        self.training = loader(TrainingImages(setup), setup.machine, best)
        self.test = loader(TestImages(setup), setup.machine, best)

    def train(self) -> None:
        self._trainer().fit(self.module, self.training)

    def predict(self) -> None:
        self._trainer().predict(self.module, self.test)

    def _trainer(self) -> lightning.Trainer:
        in_bfloat16 = self.best and self.setup.machine.dtype == torch.bfloat16
        return lightning.Trainer(
            max_epochs=1,
            precision="bf16-mixed" if in_bfloat16 else None,
            callbacks=[self.callback],
            logger=False,  # this and the next three would write or print, which is not to be measured
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )


class LightningUNet(lightning.LightningModule):
    def __init__(self, unet: nn.Module, fused: bool) -> None:
        super().__init__()
        self.unet, self.fused = unet, fused

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        images, targets = batch
        return F.binary_cross_entropy_with_logits(self.unet(images).float(), targets)

    def predict_step(self, images: Tensor, _index: int) -> Tensor:
        return torch.sigmoid(self.unet(images)).float().cpu()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=RATE, fused=self.fused)


class LightningWatch(lightning.Callback):
    """Timer of an epoch, started before the first batch is loaded."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def on_train_epoch_start(self, *_about: object) -> None:
        self.watch.start()

    def on_train_epoch_end(self, *_about: object) -> None:
        self.watch.stop()

    def on_predict_epoch_start(self, *_about: object) -> None:
        self.watch.start()

    def on_predict_epoch_end(self, *_about: object) -> None:
        self.watch.stop()


class FastAI(Contender):
    """A Learner with fastai's DataLoaders; its defaults are one worker per core and fastai's own Adam."""

    def __init__(self, setup: Setup, best: bool) -> None:
        super().__init__(setup, best)
        device = setup.machine.device
        tuned: dict[str, Any] = {"num_workers": workers_for(device, None)} if best else {}  # none on a CPU: faster
        loaders = DataLoaders.from_dsets(TrainingImages(setup), bs=BATCH, device=device, **tuned)
        self.test = TfmdDL(AsTuples(TestImages(setup)), bs=BATCH, device=device, **tuned)
        adam = partial(OptimWrapper, opt=torch.optim.Adam, fused=True) if best else Adam
        unet, watch = network(setup.machine, best), FastAIWatch(self.watch)
        self.learner = Learner(loaders, unet, nn.BCEWithLogitsLoss(), opt_func=adam, lr=RATE, cbs=watch)

    def train(self) -> None:
        with self.learner.no_logging():  # there is no progress bar without fastai.callback.progress
            self.learner.fit(1)

    def predict(self) -> None:
        with self.watch:
            self.learner.get_preds(dl=self.test, act=torch.sigmoid)


class FastAIWatch(Callback):
    """Timer of an epoch's training, started before the first batch is loaded; it cancels the validation."""

    order = 100  # after all other callbacks

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def before_train(self) -> None:
        self.watch.start()

    def after_train(self) -> None:
        self.watch.stop()
        raise CancelEpochException


class AsTuples(Dataset[tuple[Tensor]]):
    """Images in tuples without targets, as fastai expects them."""

    def __init__(self, images: TestImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor]:
        return (self.images[index],)


class Argus(Contender):
    """An argus Model with argus' steps and engine; it predicts batch by batch, as in argus' examples."""

    def __init__(self, setup: Setup, best: bool) -> None:
        super().__init__(setup, best)
        parts = {"nn_module": ("unet", {"machine": setup.machine, "best": best}), "device": str(setup.machine.device)}
        self.model = ArgusUNet({**parts, "optimizer": {"lr": RATE, "fused": best}})
        self.model.logger.setLevel(logging.ERROR)  # hide the line of each epoch
        self.callback = ArgusWatch(self.watch)
        self.training = loader(TrainingImages(setup), setup.machine, best)
        self.test = loader(TestImages(setup), setup.machine, best)

    def train(self) -> None:
        self.model.fit(self.training, num_epochs=1, callbacks=[self.callback])

    def predict(self) -> None:
        found = []
        with self.watch:
            for images in self.test:
                found.append(self.model.predict(images).cpu().numpy())


class ArgusUNet(argus.Model):
    nn_module = {"unet": network}  # noqa: RUF012 - argus expects a class attribute
    optimizer = torch.optim.Adam
    loss = nn.BCEWithLogitsLoss
    prediction_transform = nn.Sigmoid


class ArgusWatch(argus.callbacks.Callback):
    """Timer of an epoch, started before the first batch is loaded."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def epoch_start(self, _state: Any) -> None:
        self.watch.start()

    def epoch_complete(self, _state: Any) -> None:
        self.watch.stop()


PEERS: dict[str, type[Contender]] = {"lightning": Lightning, "fastai": FastAI, "argus": Argus}
