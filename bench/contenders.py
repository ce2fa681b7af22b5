"""Contenders of bench/throughput.py: this project, a plain loop with torch and smp, and the floor.

The contenders that need extra packages are in bench/peers.py. Peers, unlike this project and the floor, come in two
versions: with their defaults, and at their best (`best`), with the options that make them fast.
"""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from net.augmentations import TRAIN_AUGS, pad_to_square
from net.dataset import normalised
from net.device import Machine, machine, workers_for
from net.distributed import Processes
from net.geometry import VAL_AUGS
from net.loops import fit, predict
from net.predictor import Predictor
from net.prepare_run import prepare
from net.recipe import ORIGINAL, with_flags
from net.tasks import mask_task
from net.tta import views_by_name
from utils.core.interrupts import StopRequest
from utils.core.progress import EpochBar
from utils.core.training_settings import DataSettings, MachineSettings, NetSettings, RunSettings, TrainSettings
from utils.data.folds import fold_rows
from utils.data.packed_data import PackedImages, open_packed
from utils.masks.mask_file import PredictionInfo, mask_writer

BATCH, SIZE, RATE, SEED = 32, 128, 1e-4, 4545
TRAIN_AUG, BATCH_AUG, VAL_AUG = "train_128_v1", "affine_128", "val_128"


@dataclass(frozen=True)
class Setup:
    """Inputs that all contenders share: the memory-mapped images and the machine."""

    folder: Path
    """Packed folder; fold 0 is held out."""
    train: PackedImages
    rows: np.ndarray
    """Rows of `train` to train on: a whole number of full batches."""
    test: PackedImages
    machine: Machine
    """Machine as this project configures it; peers at their best compute in the same precision."""

    @classmethod
    def open(cls, folder: Path) -> "Setup":
        train = open_packed(folder)
        rows, _ = fold_rows(folder, train.ids, fold=0)
        return cls(folder, train, rows, open_packed(folder, "test"), machine(MachineSettings()))


class Stopwatch:
    """Timer of a block or of the time between `start` and `stop`; it waits for the GPU before it reads the clock."""

    seconds = 0.0

    def start(self) -> None:
        self._started = self._now()

    def stop(self) -> None:
        self.seconds = self._now() - self._started

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


class Contender(ABC):
    """Base class of all contenders.

    `train` trains for one epoch and `predict` predicts the test images; both store the time they took in `watch`.
    `how` describes the precision and the options.
    """

    how: str

    def __init__(self, setup: Setup, best: bool) -> None:
        self.setup, self.best, self.watch = setup, best, Stopwatch()
        self.how = f"{_name(setup.machine.dtype)}, channels last, fused Adam" if best else "float32"

    @abstractmethod
    def train(self) -> None: ...

    @abstractmethod
    def predict(self) -> None: ...


class Strata(Contender):
    """This project with its defaults: its loader, learner and loops. Masks are written to a file as by predict.py."""

    train_augs = TRAIN_AUG

    def __init__(self, setup: Setup, best: bool) -> None:
        super().__init__(setup, best)
        settings = TrainSettings(
            data=DataSettings(data_dir=str(setup.folder), train_augs=self.train_augs),
            net=NetSettings(arch="unet_resnet18", encoder_weights="none"),
            run=RunSettings(experiment_dir=str(setup.folder / f"run_{self.train_augs}")),
        )
        settings = with_flags(settings, ORIGINAL)
        self.run = prepare(settings, mask_task)
        self.run.machine.tune()
        self.learner, self.loader = self.run.learner(), self.run.loader()
        self.how = f"{_name(self.run.machine.dtype)}, {self.train_augs}"

    def train(self) -> None:
        self.run.batches.epoch += 1
        with self.watch, EpochBar("training", self.run.batches.size, hidden=True) as bar:
            fit(self.learner, self.loader, self.run.batches, bar, StopRequest(), "")

    def predict(self) -> None:
        test, path = self.setup.test, self.setup.folder / f"masks_{self.train_augs}.npy"
        rows, views = np.arange(len(test.ids)), views_by_name("null")
        with self.watch, mask_writer(path, test.ids, test.shapes, PredictionInfo()) as writer:
            predictor = Predictor(self.run.network.eval(), self.run.task.kind, VAL_AUGS[VAL_AUG], self.run.machine)
            for masks in predict([predictor], test, rows, views, self.run.machine.prediction_batch_size, Processes()):
                writer.append(masks)


class StrataBatch(Strata):
    """As Strata, but the augmentation changes whole batches, so that images stay in the memory of the device."""

    train_augs = BATCH_AUG


class Torch(Contender):
    """A plain loop; at its best with autocast, channels last, fused Adam and inference mode."""

    def __init__(self, setup: Setup, best: bool) -> None:
        super().__init__(setup, best)
        self.network = network(setup.machine, best)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=RATE, fused=best)
        self.training = loader(TrainingImages(setup), setup.machine, best)
        self.test = loader(TestImages(setup), setup.machine, best)

    def train(self) -> None:
        device = self.setup.machine.device
        with self.watch:
            self.network.train()
            for images, targets in self.training:
                step(self.network, self.optimizer, images.to(device), targets.to(device))

    def predict(self) -> None:
        masks = []
        with self.watch, torch.inference_mode() if self.best else torch.no_grad():
            self.network.eval()
            for images in self.test:
                masks.append(torch.sigmoid(self.network(images.to(self.setup.machine.device))).cpu().numpy())


class Floor(Contender):
    """The network alone, on a batch that is already on the device: no contender can be faster with this network."""

    def __init__(self, setup: Setup, best: bool) -> None:
        super().__init__(setup, best=True)
        setup.machine.tune()  # the floor is measured with this project's machine settings
        self.network = network(setup.machine, best=True)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=RATE, fused=True)
        images = torch.randint(0, 256, (BATCH, 1, SIZE, SIZE), dtype=torch.uint8, device=setup.machine.device)
        self.images, self.targets = normalised(images), (images > 128).float()

    def train(self) -> None:
        self.network.train()
        with self.watch:
            for _ in range(len(self.setup.rows) // BATCH):
                step(self.network, self.optimizer, self.images, self.targets)

    def predict(self) -> None:
        self.network.eval()
        with self.watch, torch.inference_mode():
            for left in range(len(self.setup.test.ids), 0, -BATCH):
                self.network(self.images[:left])


class TrainingImages(Dataset[tuple[Tensor, Tensor]]):
    """Augmented and normalised samples: image and mask, (1, S, S) float32 each."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.change = setup, TRAIN_AUGS[TRAIN_AUG].build(SIZE)

    def __len__(self) -> int:
        return len(self.setup.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        row, packed = self.setup.rows[index], self.setup.train
        changed = self.change(image=packed.images[row], mask=packed.masks[row][..., None])
        return _normalised(pad_to_square(changed["image"], SIZE)), _planes(pad_to_square(changed["mask"], SIZE))


class TestImages(Dataset[Tensor]):
    """Padded and normalised images, (1, S, S) float32."""

    def __init__(self, setup: Setup) -> None:
        self.images, self.fit = setup.test.images, VAL_AUGS[VAL_AUG](setup.test.shape)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return _normalised(self.fit.apply(self.images[index]))


class Autocast(nn.Module):
    """A network that always computes in the machine's precision and returns float32."""

    def __init__(self, network: nn.Module, machine: Machine) -> None:
        super().__init__()
        self.network, self.machine = network, machine

    def forward(self, images: Tensor) -> Tensor:
        with self.machine.autocast():
            return self.network(images).float()


def network(machine: Machine, best: bool, autocast: bool = True) -> nn.Module:
    """Return the U-Net, with the same initial weights for every contender.

    Args:
        machine: where the network runs.
        best: use channels last.
        autocast: with `best`, also wrap the network in `Autocast`.
    """
    torch.manual_seed(SEED)
    unet = smp.Unet("resnet18", encoder_weights=None, in_channels=1, classes=1).to(machine.device)
    if not best:
        return unet
    unet = unet.to(memory_format=torch.channels_last)
    return Autocast(unet, machine) if autocast else unet


def loader(images: Dataset[Any], machine: Machine, best: bool) -> DataLoader:
    """Return a loader with torch's defaults; at its best on a GPU, with as many workers as this project uses there."""
    workers = workers_for(machine.device, None) if best else 0
    mixed, kept = isinstance(images, TrainingImages), workers > 0
    return DataLoader(images, BATCH, mixed, num_workers=workers, persistent_workers=kept, pin_memory=kept)


def step(network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, targets: Tensor) -> None:
    """Run one training step."""
    optimizer.zero_grad()
    F.binary_cross_entropy_with_logits(network(images), targets).backward()
    optimizer.step()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _planes(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1)).float()


def _normalised(image: np.ndarray) -> Tensor:
    return (_planes(image) / 255 - 0.449) / 0.226


OWN_KINDS: dict[str, type[Contender]] = {"strata": Strata, "strata_batch": StrataBatch, "torch": Torch, "floor": Floor}
