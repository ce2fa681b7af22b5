"""Snapshots hold only tensors and plain values; truncated, foreign and mismatched files are refused."""

import os

import pytest
import torch

from net import snapshot
from net.architectures import build_network
from utils.core.errors import UserError


class Malicious:
    def __reduce__(self):
        return os.system, ("echo broken-into > broken_into",)


def test_an_untrusted_file_cannot_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "about": {}, "weights": Malicious()}, "bad")
    with pytest.raises(UserError, match="bad: expected a snapshot"):
        snapshot.load_snapshot("bad")
    assert not (tmp_path / "broken_into").exists()


def test_truncated_foreign_and_missing_files_are_refused(tmp_path):
    network = build_network("unet_resnet18", 1)
    path = tmp_path / "snapshot"
    info = snapshot.SnapshotInfo(arch="unet_resnet18", task="mask", channels_in=1)
    snapshot.save_snapshot(path, network, info)
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="snapshot: "):
            snapshot.load_snapshot(path)
    path.write_text("epoch,loss\n1,0.5\n")
    with pytest.raises(UserError, match="snapshot: "):
        snapshot.load_snapshot(path)
    torch.save(network.state_dict(), path)
    with pytest.raises(UserError, match="not a snapshot of this project"):
        snapshot.load_snapshot(path)
    with pytest.raises(UserError, match="no such snapshot file"):
        snapshot.load_snapshot(tmp_path / "nowhere")


def test_a_bare_state_dict_is_loaded_completely_or_its_mismatches_are_listed(tmp_path):
    source, target = build_network("unet_resnet18", 1), build_network("unet_resnet18", 1)
    torch.save(source.state_dict(), tmp_path / "bare.pt")
    snapshot.start_from(target, tmp_path / "bare.pt", "mask")
    assert all(torch.equal(value, target.state_dict()[name]) for name, value in source.state_dict().items())

    weights = source.state_dict()
    weights["conv9.weight"] = weights.pop("segmentation_head.0.bias")
    weights["encoder.conv1.weight"] = torch.zeros(64, 3, 7, 7)
    torch.save(weights, tmp_path / "other.pt")
    expected = (
        r"segmentation_head.0.bias is missing; conv9.weight is unknown; "
        r"encoder.conv1.weight has the shape \(64, 3, 7, 7\) instead of"
    )
    with pytest.raises(UserError, match=expected):
        snapshot.start_from(target, tmp_path / "other.pt", "mask")


def test_a_failed_write_leaves_the_previous_snapshot(tmp_path, monkeypatch):
    path = tmp_path / "snapshot"
    snapshot.write(path, {"format": 1, "value": 1})

    def full(_values, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(snapshot.torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        snapshot.write(path, {"format": 1, "value": 2})
    monkeypatch.undo()
    assert snapshot.read(path)["value"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["snapshot"]
