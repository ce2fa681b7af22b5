"""Networks by name.

A segmentation network is an entry of ARCHITECTURES, or `<decoder>_<encoder>` with a decoder of smp, or the thin one of
the strata networks, and an encoder of smp or timm. A classifier is any timm model or smp encoder.

A builder takes (channels_in, channels_out, weights) and returns a module that maps normalised images
(B, channels_in, S, S) to logits (B, channels_out, S, S) or to a DeepOutput. The logits of a classifier are
(B, channels_out).
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn

from net.strata_net import LARGE, MEDIUM, SMALL, StrataEncoder, StrataNet, Widths
from net.unet import DeeplySupervisedUNet, UNet
from utils.core.errors import UsageError, UserError
from utils.core.names import nearest


def built_with(arch: str, encoder_weights: str, build: Callable[[str | None], nn.Module]) -> nn.Module:
    """Build a network whose encoder has the requested weights.

    Args:
        arch: name of the network, for error messages.
        encoder_weights: imagenet, none, or a file with the encoder's state dict.
        build: takes "imagenet" or None and returns the network.

    Raises:
        UsageError: the file does not exist, or the decoder does not support the encoder.
        UserError: the weights cannot be downloaded or do not fit.
    """
    if encoder_weights != "imagenet":
        if encoder_weights != "none" and not Path(encoder_weights).is_file():
            raise UsageError(
                f"--encoder_weights {encoder_weights}: expected imagenet, none or a file, but this file does not exist"
            )
        network = _built(arch, build, None)
        if encoder_weights != "none":
            from net.snapshot import load_encoder_weights

            load_encoder_weights(network, encoder_weights)
        return network
    try:
        return _built(arch, build, "imagenet")
    except (OSError, RuntimeError) as error:  # the many errors of hubs and HTTP clients are subclasses of these two
        reason = str(error).strip().partition("\n")[0][:200]
        raise UserError(
            f"--encoder_weights imagenet: could not be downloaded ({reason}); "
            "use --encoder_weights none, or a file that holds the encoder's state dict"
        ) from None


def _built(arch: str, build: Callable[[str | None], nn.Module], weights: str | None) -> nn.Module:
    try:
        return build(weights)
    except (ValueError, KeyError, NotImplementedError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise UsageError(
            f"--arch {arch}: this decoder does not support this encoder ({reason}); choose another one"
        ) from None


Build = Callable[[int, int, str | None], nn.Module]
STANDARD = (256, 128, 64, 32, 16)
NARROW = (64, 48, 32, 24, 16)
WIDE_RESNET = "tu-wide_resnet50_2"


def _encoder(name: str, channels_in: int, weights: str | None) -> nn.Module:
    return smp.encoders.get_encoder(name, in_channels=channels_in, depth=5, weights=weights)


def unet_resnet34_v1(channels_in: int, channels_out: int, weights: str | None) -> nn.Module:
    """Build a resnet34 U-Net with scSE, hypercolumn and dropout."""
    return UNet(_encoder("resnet34", channels_in, weights), STANDARD, channels_out, True, hypercolumn=32, dropout=0.3)


def wide_resnet_v1(channels_in: int, channels_out: int, weights: str | None) -> nn.Module:
    return UNet(_encoder(WIDE_RESNET, channels_in, weights), STANDARD, channels_out)


def wide_resnet_v2(channels_in: int, channels_out: int, weights: str | None) -> nn.Module:
    """Build a wide ResNet U-Net with a narrow decoder."""
    return UNet(_encoder(WIDE_RESNET, channels_in, weights), NARROW, channels_out)


def wide_resnet_hypercolumn(channels_in: int, channels_out: int, weights: str | None) -> nn.Module:
    return UNet(_encoder(WIDE_RESNET, channels_in, weights), NARROW, channels_out, hypercolumn=32)


def wide_resnet_se(channels_in: int, channels_out: int, weights: str | None) -> nn.Module:
    """Build a wide ResNet U-Net with scSE in the decoder."""
    return UNet(_encoder(WIDE_RESNET, channels_in, weights), NARROW, channels_out, scse=True)


def wide_resnet_border(channels_in: int, channels_out: int, weights: str | None) -> nn.Module:
    """Build a wide ResNet U-Net with scSE and hypercolumn: thin borders need fine and deep feature maps."""
    return UNet(_encoder(WIDE_RESNET, channels_in, weights), NARROW, channels_out, scse=True, hypercolumn=32)


def seresnext(channels_in: int, channels_out: int, weights: str | None) -> nn.Module:
    return UNet(_encoder("se_resnext50_32x4d", channels_in, weights), NARROW, channels_out, scse=True)


def ds_resnet_34(channels_in: int, channels_out: int, weights: str | None) -> nn.Module:
    """Build a deeply supervised resnet34 U-Net: fused mask, image class and side masks."""
    return DeeplySupervisedUNet(_encoder("resnet34", channels_in, weights), NARROW, channels_out, 32, dropout=0.3)


THIN = "strata"
"""Decoder of the strata networks, for other encoders: strata_mobilenet_v2."""
THIN_DECODER = (128, 64, 48, 32)
"""Its channels at strides 16, 8, 4 and 2."""

STRATA: dict[str, Widths] = {"strata_s": SMALL, "strata_m": MEDIUM, "strata_l": LARGE}
"""Widths of the small networks that learn fast from scratch; also the names of classifiers."""


def _strata(name: str) -> Build:
    def build(channels_in: int, channels_out: int, weights: str | None) -> nn.Module:
        _check_from_scratch(name, weights)
        return StrataNet(StrataEncoder(channels_in, STRATA[name]), channels_out, STRATA[name].decoder)

    return build


def _check_from_scratch(name: str, weights: str | None) -> None:
    if weights:
        raise UsageError(f"--encoder_weights {weights}: {name} has none to download; use none, or a file")


ARCHITECTURES: dict[str, Build] = {
    **{name: _strata(name) for name in STRATA},
    "unet_resnet34_v1": unet_resnet34_v1,
    "wide_resnet_v1": wide_resnet_v1,
    "wide_resnet_v2": wide_resnet_v2,
    "wide_resnet_hypercolumn": wide_resnet_hypercolumn,
    "wide_resnet_se": wide_resnet_se,
    "wide_resnet_border": wide_resnet_border,
    "seresnext": seresnext,
    "ds_resnet_34": ds_resnet_34,
}


@cache
def decoders() -> dict[str, type[nn.Module]]:
    """Return the network classes of smp by lower-case name, such as unet, unetplusplus or fpn."""
    classes = [getattr(smp, name) for name in dir(smp) if isinstance(getattr(smp, name), type)]
    return {kind.__name__.lower(): kind for kind in classes}


def architecture_by_name(name: str) -> Build:
    """Return the builder of a named network or of `<decoder>_<encoder>`.

    Raises:
        UsageError: the name is unknown; the message suggests the nearest names.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    decoder, _, encoder = name.partition("_")
    if decoder not in (THIN, *decoders()):
        known = [*ARCHITECTURES, *(f"{kind}_resnet34" for kind in (THIN, *decoders()))]
        raise UsageError(f"--arch {name}: no such network, and not a <decoder>_<encoder>; {nearest(name, known)}")
    smp_encoders = smp.encoders.encoders
    if encoder not in smp_encoders and timm.is_model(encoder.removeprefix("tu-").partition(".")[0]):
        encoder = "tu-" + encoder.removeprefix("tu-")
    elif encoder not in smp_encoders:
        known = [f"{decoder}_{one}" for one in [*smp_encoders, *timm.list_models()]]
        raise UsageError(f"--arch {name}: smp and timm have no encoder {encoder}; {nearest(name, known)}")
    if decoder == THIN:
        return lambda channels_in, channels_out, weights: StrataNet(
            _encoder(encoder, channels_in, weights), channels_out, THIN_DECODER, multiple=32
        )
    # without this option the transformers of dpt accept one input size only
    any_size = {"dynamic_img_size": True} if decoder == "dpt" else {}
    return lambda channels_in, channels_out, weights: decoders()[decoder](
        encoder, encoder_weights=weights, in_channels=channels_in, classes=channels_out, **any_size
    )


def build_network(arch: str, channels_in: int, channels_out: int = 1, encoder_weights: str = "none") -> nn.Module:
    """Build a segmentation network by name.

    Args:
        arch: a name of ARCHITECTURES or `<decoder>_<encoder>`.
        channels_in: 1 (grey) or 3 (RGB); pretrained first layers are adapted.
        channels_out: logits per pixel.
        encoder_weights: imagenet, none, or a file with the encoder's state dict.

    Raises:
        UsageError: the name is unknown, or the decoder does not support the encoder.
        UserError: the weights cannot be downloaded or do not fit.
    """
    build = architecture_by_name(arch)
    return built_with(arch, encoder_weights, lambda weights: build(channels_in, channels_out, weights))


def set_prior(network: nn.Module, shares: np.ndarray) -> None:
    """Set the bias of the last layer so that the network starts by predicting `shares` (K,) everywhere.

    Where foreground is rare, the first steps are then not spent on learning that most pixels are background (Lin et al.
    2017, arXiv 1708.02002, section 4.1).

    Raises:
        UsageError: the last layer has no bias for the K outputs.
    """
    # side heads of deep supervision come after the head that predicts
    last = network.head if isinstance(network, UNet) else network
    name, bias = [(name, weight) for name, weight in last.named_parameters() if name.endswith("bias")][-1]
    if len(bias) % len(shares):
        raise UsageError(
            f"--head_bias prior: expected a bias for {len(shares)} outputs in the last layer, found {len(bias)} values "
            f"in {name}; use --head_bias zero"
        )
    odds = np.clip(shares, 1e-4, 1 - 1e-4)
    logits = torch.from_numpy(np.log(odds / (1 - odds))).to(bias)
    with torch.no_grad():
        bias.copy_(logits.repeat_interleave(len(bias) // len(shares)))  # several pixels per position, if shuffled


def drop_channels(network: nn.Module, share: float) -> None:
    """Let a network with the strata decoder drop a share of the channels of its deepest map in training.

    Raises:
        UsageError: the share is not in [0, 1), or the network has another decoder.
    """
    if not 0 <= share < 1:
        raise UsageError(f"--channel_dropout {share:g}: expected 0 or more and less than 1, such as 0.2")
    if isinstance(network, StrataNet):
        network.dropped = share
    elif share:
        raise UsageError(
            f"--channel_dropout {share:g}: only mask and border networks of the strata kind drop channels; leave it out"
        )


class PooledEncoder(nn.Module):
    """Classifier that averages the deepest feature map of an smp encoder and applies a linear layer.

    Args:
        encoder: returns feature maps, the deepest one last.
        channels_out: logits per image.
    """

    def __init__(self, encoder: nn.Module, channels_out: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.out_channels[-1], channels_out)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, channels_out) for normalised images (B, C, S, S)."""
        return self.head(torch.mean(self.encoder(images)[-1], (2, 3)))


def build_classifier(arch: str, channels_in: int, channels_out: int, encoder_weights: str = "none") -> nn.Module:
    """Build a network that classifies images.

    Args:
        arch: strata_s, strata_m, strata_l, a timm model (convnext_tiny) or an smp encoder (resnet18).
        channels_in: 1 (grey) or 3 (RGB).
        channels_out: logits per image.
        encoder_weights: imagenet, none, or a file with the encoder's state dict (all layers but the head); a file is
            supported for smp encoders only.

    Raises:
        UsageError: the name is unknown, or a file is given for a timm model.
        UserError: the weights cannot be downloaded or do not fit.
    """
    encoders = smp.encoders.encoders

    def build(weights: str | None) -> nn.Module:
        if arch in STRATA:
            _check_from_scratch(arch, weights)
            return PooledEncoder(StrataEncoder(channels_in, STRATA[arch]), channels_out)
        if arch in encoders:
            encoder = smp.encoders.get_encoder(arch, in_channels=channels_in, depth=5, weights=weights)
            return PooledEncoder(encoder, channels_out)
        return timm.create_model(arch, pretrained=weights is not None, in_chans=channels_in, num_classes=channels_out)

    if arch not in STRATA and arch not in encoders and not timm.is_model(arch.partition(".")[0]):
        raise UsageError(f"--arch {arch}: expected a timm model or an smp encoder; {nearest(arch, _known())}")
    return built_with(arch, encoder_weights, build)


def has_encoder(arch: str) -> bool:
    """Tell whether a classifier has an encoder apart from its last layer; a timm model is one network."""
    return arch in STRATA or arch in smp.encoders.encoders


def _known() -> list[str]:
    return [*STRATA, *smp.encoders.encoders, *timm.list_models()]
