"""Every named network and every smp decoder is built, run forward and backward, saved and loaded."""

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch

from net.architectures import (
    ARCHITECTURES,
    build_classifier,
    build_network,
    decoders,
    drop_channels,
    set_prior,
)
from net.outputs import DeepOutput, fused
from net.predictor import rebuild
from net.snapshot import Snapshot, SnapshotInfo, load_snapshot, save_snapshot
from utils.core.errors import UsageError, UserError

BY_DECODER = {
    **{f"{decoder}_resnet18": decoder for decoder in decoders() if decoder != "dpt"},
    "dpt_vit_tiny_patch16_224": "dpt",
    "segformer_mit_b0": "segformer",
    "fpn_resnext50_32x4d": "fpn",
    "unetplusplus_tu-convnext_tiny": "unetplusplus",
}


def images(channels, size=64, seed=0):
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", [*ARCHITECTURES, *BY_DECODER])
def test_built_run_saved_loaded(name, tmp_path):
    torch.manual_seed(0)
    network = build_network(name, 1)
    pixels = images(1, 128 if name.startswith("pan_") else 64)  # PAN pools four times as much
    output = network(pixels)
    assert fused(output).shape == pixels.shape
    parts = [output.fused, output.image, *output.sides] if isinstance(output, DeepOutput) else [output]
    sum(part.square().mean() for part in parts).backward()
    # timm's encoders keep the normalisation of a classifier, which a decoder does not use
    unlearned = [n for n, p in network.named_parameters() if p.grad is None and not n.startswith("encoder.")]
    assert unlearned == []

    info = SnapshotInfo(arch=name, channels_in=1, task="mask")
    save_snapshot(tmp_path / "snapshot", network, info)
    again = rebuild(load_snapshot(tmp_path / "snapshot"), tmp_path / "snapshot")
    with torch.inference_mode():
        assert torch.equal(fused(again(pixels)), fused(network.eval()(pixels)))


def test_named_networks_have_the_parts_in_their_names():
    parameters = {name: sum(p.numel() for p in build_network(name, 3).parameters()) for name in ARCHITECTURES}
    assert parameters["wide_resnet_v2"] < parameters["wide_resnet_v1"]
    assert parameters["wide_resnet_se"] > parameters["wide_resnet_v2"]
    assert parameters["wide_resnet_hypercolumn"] > parameters["wide_resnet_v2"]
    output = build_network("ds_resnet_34", 3)(images(3))
    assert isinstance(output, DeepOutput)
    assert output.image.shape == (2,)
    assert [side.shape for side in output.sides] == [(2, 1, 64, 64)] * 5


def test_rgb_and_odd_sizes():
    assert fused(build_network("unet_resnet34_v1", 3).eval()(images(3, 101))).shape == (2, 1, 101, 101)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unet_resnet19", "did you mean unet_resnet18"),
        ("wide_resnet_v3", "did you mean wide_resnet_v2"),
        ("unett_resnet34", "did you mean unet_resnet34"),
        ("unetplusplus_mit_b0", "does not support this encoder"),
        ("resnet34", "--arch resnet34: no such network"),
    ],
)
def test_unknown_networks_and_decoders_without_support_for_an_encoder_are_refused(name, message):
    with pytest.raises(UsageError, match=message):
        build_network(name, 1)


def test_encoder_weights_for_colour_images_are_adapted_to_grey_ones(tmp_path):
    colour = smp.encoders.get_encoder("mobilenet_v2", in_channels=3, weights=None).eval()
    torch.save(colour.state_dict(), tmp_path / "encoder.pt")
    grey = build_network("unet_mobilenet_v2", 1, encoder_weights=str(tmp_path / "encoder.pt")).encoder.eval()
    image = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        for one, other in zip(grey(image)[1:], colour(image.expand(-1, 3, -1, -1))[1:], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_encoder_weights_from_a_file_fit_completely_or_are_refused(tmp_path):
    source = build_network("unet_resnet18", 1)
    torch.save(source.encoder.state_dict(), tmp_path / "encoder.pt")
    network = build_network("unet_resnet18", 1, encoder_weights=str(tmp_path / "encoder.pt"))
    assert torch.equal(network.encoder.conv1.weight, source.encoder.conv1.weight)
    with pytest.raises(UserError, match=r"does not fit this network: .* is missing"):
        build_network("unet_resnet34", 1, encoder_weights=str(tmp_path / "encoder.pt"))
    with pytest.raises(UsageError, match="--encoder_weights imagenat: expected imagenet, none or a file"):
        build_network("unet_resnet18", 1, encoder_weights="imagenat")


def test_a_failed_download_of_weights_is_one_error(monkeypatch):
    def offline(*_args, **_kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("net.architectures.smp.encoders.get_encoder", offline)
    with pytest.raises(UserError, match=r"could not be downloaded .* use --encoder_weights none"):
        build_network("unet_resnet34_v1", 1, encoder_weights="imagenet")


def test_a_snapshot_in_memory_describes_itself():
    network = build_network("unet_resnet18", 1)
    info = SnapshotInfo(arch="unet_resnet18", channels_in=1, task="mask")
    again = rebuild(Snapshot(info, network.state_dict()), "memory")
    assert not again.training


@pytest.mark.parametrize("side", [1, 2, 17, 52, 101, 104])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_strata_networks_take_any_size_and_number_of_channels(side, channels):
    network = build_network("strata_s", channels, 2).eval()
    pixels = torch.randn(2, channels, side, side + 3)
    with torch.inference_mode():
        assert network(pixels).shape == (2, 2, side, side + 3)
        assert build_classifier("strata_s", channels, 4).eval()(pixels).shape == (2, 4)


@pytest.mark.parametrize("side", [1, 33, 64])
def test_the_thin_decoder_takes_any_size_with_any_encoder(side):
    network = build_network("strata_mobilenet_v2", 3).eval()
    with torch.inference_mode():
        assert network(torch.randn(2, 3, side, side + 3)).shape == (2, 1, side, side + 3)


def test_channels_are_dropped_in_training_only():
    images, network = torch.rand(2, 1, 64, 64), build_network("strata_s", 1, 1)
    predicted = network.eval()(images)
    drop_channels(network, 0.5)
    assert torch.equal(network(images), predicted)
    network.train()
    one, other = network(images), network(images)
    assert not torch.equal(one, other)
    drop_channels(network, 0.0)
    assert torch.equal(network(images), network(images))
    drop_channels(build_network("unet_resnet18", 1, 1), 0.0)
    with pytest.raises(UsageError, match=r"--channel_dropout 0\.2: only .* strata"):
        drop_channels(build_network("unet_resnet18", 1, 1), 0.2)


def test_a_network_without_pretrained_weights_says_so():
    for build in (build_network, build_classifier):
        with pytest.raises(UsageError, match=r"--encoder_weights imagenet: strata_m has none .* use none"):
            build("strata_m", 1, 1, "imagenet")


@pytest.mark.parametrize("arch", ["strata_s", "unet_resnet18", "linknet_tu-test_resnet", "ds_resnet_34"])
def test_a_network_may_start_with_the_shares_of_the_foreground(arch):
    torch.manual_seed(0)
    network = build_network(arch, 1, 2)
    set_prior(network, np.array([0.02, 0.3]))
    weights = dict(network.named_parameters())
    names = [name for name in weights if name.endswith("bias") and not name.startswith("side_heads")]
    head = "head.1." if arch.startswith("ds_") else names[-1].removesuffix("bias")
    torch.nn.init.zeros_(weights[f"{head}weight"])
    with torch.inference_mode():
        probabilities = torch.sigmoid(fused(network(images(1))))
    assert torch.allclose(probabilities.mean((0, 2, 3)), torch.tensor([0.02, 0.3]), atol=1e-4)
