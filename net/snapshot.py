"""Snapshot files: the weights of a network and the record that rebuilds it; tensors and plain values, never code.

    format      1
    about       the fields of SnapshotInfo
    weights     the state dict of the network

Files are read with `weights_only=True`, so that a file from an untrusted source cannot run code.
"""

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.core.errors import UsageError, UserError
from utils.core.files import atomic_file
from utils.core.records import from_plain, to_plain

FORMAT = 1


@dataclass(frozen=True)
class SnapshotInfo:
    """Record of a snapshot; snapshots of earlier versions store fewer fields."""

    arch: str
    task: str
    """Name of the network's kind: mask, border, labels or label."""
    channels_in: int
    """Channels of the images: 1 (grey) or 3 (RGB)."""
    val_augs: str = "val_128"
    """Name of the preprocessing that brings images to the input size."""
    contrast_stretch: bool = False
    """True if the contrast of each image is stretched first."""
    fold: int = 0
    """The held-out fold."""
    data_digest: str = ""
    """Digest of the packed images (and masks) that training used."""
    val_ids_digest: str = ""
    """Digest of the ids of the held-out images."""
    outputs: tuple[str, ...] = ("mask",)
    """Name of each logit."""
    size: int | None = None
    """Side of the square input in validation; None for images at their own size, or for the size of `val_augs`."""
    shape: tuple[int, ...] = ()
    """(height, width) of the packed images."""
    train_augs: str = ""
    val_transforms: str = ""
    loss: str = ""
    optimizer: str = ""
    scheduler: str = ""
    seed: int = 0
    target: str | None = None
    """Column of the classes that were learned."""
    exclusive: bool | None = None
    """True if each image has exactly one of the classes."""
    border: str | None = None
    """Border that was learned: outline, touching or both."""
    border_width: int | None = None
    metric: str | None = None
    """Score that ranked the snapshots of the run."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Results of the snapshot's epoch, from log.csv."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of Python and of the packages that training used."""


@dataclass(frozen=True)
class Snapshot:
    """Weights of a network and their record."""

    info: SnapshotInfo
    weights: dict[str, Tensor]


def write(path: str | Path, values: dict[str, Any]) -> None:
    """Write tensors and plain values to a file, completely or not at all."""
    with atomic_file(path) as part, open(part, "wb") as file:
        try:
            torch.save(values, file)
        except RuntimeError as error:  # torch reports a full disk as a RuntimeError
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def read(path: str | Path) -> Any:
    """Read the tensors (to the CPU) and plain values of a file.

    Raises:
        UserError: the file does not exist, is truncated, or holds anything other than tensors and plain values.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such snapshot file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's text tells how to load it without protection
        raise UserError(
            f"{path}: expected a snapshot (only tensors and plain values), found another kind of file; name a "
            "snapshot, such as epoch_12.loss_0.1063.iout_0.855, or the folder of a run"
        ) from None
    except Exception as error:  # torch's reader can raise any exception for a file of another format
        reason = str(error).partition("\n")[0][:120]
        raise UserError(f"{path}: not a snapshot, or a truncated one ({reason}); use another file") from None


def save_snapshot(path: str | Path, network: nn.Module, info: SnapshotInfo) -> None:
    """Write the weights of a network and their record as a snapshot."""
    write(path, {"format": FORMAT, "about": to_plain(info), "weights": network.state_dict()})


def load_snapshot(path: str | Path) -> Snapshot:
    """Load a snapshot that was written by `save_snapshot`.

    Raises:
        UserError: the file does not exist, is truncated, or is not a snapshot.
    """
    values = read(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT or "weights" not in values:
        raise UserError(
            f"{path}: not a snapshot of this project (format {FORMAT}); use a file from experiments/*/snapshots"
        )
    info = from_plain(SnapshotInfo, values.get("about"), str(path), "use another snapshot, or train again")
    return Snapshot(info, values["weights"])


def start_from(network: nn.Module, path: str | Path, task: str) -> None:
    """Load weights to start training from: a snapshot of this project, or a bare state dict from elsewhere.

    Raises:
        UserError: the snapshot is of another task, or its weights do not fit the network.
    """
    values = read(path)
    own = isinstance(values, dict) and values.get("format") == FORMAT
    if own and values["about"]["task"] != task:
        raise UserError(
            f"--snapshot {path}: expected a snapshot of the task {task}, found {values['about']['task']}; use another "
            "snapshot"
        )
    fill(network, values["weights"] if own else values, path)


def load_encoder_weights(network: nn.Module, path: str | Path) -> None:
    """Load the bare state dict of an encoder; the first layer of one for RGB images is adapted to grey images.

    Raises:
        UsageError: the network has no separate encoder.
        UserError: the file cannot be read, or its weights do not fit the encoder.
    """
    if not hasattr(network, "encoder"):
        raise UsageError(f"--encoder_weights {path}: this network has no separate encoder; use --snapshot")
    fill(network.encoder, _for_grey(read(path), network.encoder), path)


def _for_grey(weights: Any, encoder: nn.Module) -> Any:
    """Add up the filters of the three colours if the encoder has grey images: a grey image is equal in all of them."""
    own = encoder.state_dict()
    if not isinstance(weights, dict) or not own.keys() <= weights.keys():
        return weights

    def has_colours(name: str) -> bool:
        shape, found = own[name].shape, getattr(weights[name], "shape", ())
        return len(shape) == 4 and shape[1] == 1 and found == (shape[0], 3, *shape[2:])

    return {**weights, **{name: weights[name].sum(1, keepdim=True) for name in own if has_colours(name)}}


def fill(network: nn.Module, weights: Any, path: str | Path) -> None:
    """Load weights into a network, all of them or none.

    Raises:
        UserError: names or shapes do not fit; the message lists the first ones.
    """
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"{path}: expected a state dict (names and tensors), found something else; use another file")
    own = network.state_dict()
    faults = [f"{name} is missing" for name in own if name not in weights]
    faults += [f"{name} is unknown" for name in weights if name not in own]
    faults += [
        f"{name} has the shape {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UserError(f"{path}: does not fit this network: {'; '.join(faults[:3])}{more}; check --arch")
    network.load_state_dict(weights)
