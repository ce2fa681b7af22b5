"""Snapshot files: a network's weights and the record that rebuilds it; tensors and plain values, never code.

    format      1
    about       the fields of SnapshotInfo
    weights     the network's state dict

Everything is read with `weights_only=True`, so that a stranger's file cannot run anything.
"""

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.core.errors import UsageError, UserError
from utils.core.files import whole_file
from utils.core.records import from_plain, to_plain

FORMAT = 1


@dataclass(frozen=True)
class SnapshotInfo:
    """What a snapshot says of itself; snapshots of earlier versions say less."""

    arch: str
    task: str
    """The name of its kind: mask, border, labels or label."""
    channels_in: int
    """1 (grey) or 3 (RGB)."""
    val_augs: str = "val_128"
    """How images are brought to the network's size."""
    fold: int = 0
    """The fold that was held out."""
    data_digest: str = ""
    """Of the packed images (and masks) that it was trained on ..."""
    val_ids_digest: str = ""
    """... and of the ids of those that were held out."""
    outputs: tuple[str, ...] = ("mask",)
    """A name for each logit."""
    size: int | None = None
    """Of the network's square in validation; None: images at their own size, or as `val_augs` says."""
    shape: tuple[int, ...] = ()
    """(height, width) of the packed images."""
    train_augs: str = ""
    val_transforms: str = ""
    loss: str = ""
    optimizer: str = ""
    scheduler: str = ""
    seed: int = 0
    target: str | None = None
    """Column whose classes were learned."""
    exclusive: bool | None = None
    """Whether each image has exactly one of the classes."""
    border: str | None = None
    """Which border was learned: outline, touching, both."""
    border_width: int | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    """The row of log.csv of its epoch."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of Python and the packages that training used."""


@dataclass(frozen=True)
class Snapshot:
    """A network's weights and what is known of them."""

    info: SnapshotInfo
    weights: dict[str, Tensor]


def write(path: str | Path, values: dict[str, Any]) -> None:
    """Write tensors and plain values, whole or not at all."""
    with whole_file(path) as part, open(part, "wb") as file:
        try:
            torch.save(values, file)
        except RuntimeError as error:  # torch hides a full disk behind an error of its own
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def read(path: str | Path) -> Any:
    """The tensors and plain values of a file, on the CPU.

    Raises:
        UserError: no such file, truncated, or holding anything but tensors and plain values.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such snapshot file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0][:120]
        raise UserError(f"{path}: refused, it holds more than tensors and plain values, or none ({reason})") from None
    except Exception as error:  # foreign bytes fail in the reader in any way there is
        reason = str(error).partition("\n")[0][:120]
        raise UserError(f"{path}: no snapshot, or a truncated one ({reason}); use another") from None


def save_snapshot(path: str | Path, network: nn.Module, info: SnapshotInfo) -> None:
    """Write a snapshot that describes itself."""
    write(path, {"format": FORMAT, "about": to_plain(info), "weights": network.state_dict()})


def load_snapshot(path: str | Path) -> Snapshot:
    """A snapshot written by `save_snapshot`.

    Raises:
        UserError: no file, truncated, or a file of another kind.
    """
    values = read(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT or "weights" not in values:
        raise UserError(
            f"{path}: not a snapshot of this project (format {FORMAT}); use a file of experiments/*/snapshots"
        )
    info = from_plain(SnapshotInfo, values.get("about"), str(path), "use another snapshot, or train again")
    return Snapshot(info, values["weights"])


def start_from(network: nn.Module, path: str | Path, task: str) -> None:
    """Load weights to start training from: a snapshot of this project, or a bare state dict from elsewhere.

    Raises:
        UserError: the snapshot is of another task, or its weights do not fit.
    """
    values = read(path)
    own = isinstance(values, dict) and values.get("format") == FORMAT
    if own and values["about"]["task"] != task:
        raise UserError(f"--snapshot {path}: is of the task {values['about']['task']}, expected {task}; name another")
    fill(network, values["weights"] if own else values, path)


def load_encoder_weights(network: nn.Module, path: str | Path) -> None:
    """Load an encoder's bare state dict.

    Raises:
        UsageError: a network without an encoder of its own.
    """
    if not hasattr(network, "encoder"):
        raise UsageError(f"--encoder_weights {path}: this network has no encoder to fill; use --snapshot")
    fill(network.encoder, read(path), path)


def fill(network: nn.Module, weights: Any, path: str | Path) -> None:
    """Put weights into a network, all of them or none.

    Raises:
        UserError: names or shapes that do not fit; the first ones are listed.
    """
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"{path}: expected a state dict (names and tensors), found something else")
    own = network.state_dict()
    faults = [f"{name} is missing" for name in own if name not in weights]
    faults += [f"{name} is unknown" for name in weights if name not in own]
    faults += [
        f"{name} is {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UserError(f"{path}: does not fit this network: {'; '.join(faults[:3])}{more}; check --arch")
    network.load_state_dict(weights)
