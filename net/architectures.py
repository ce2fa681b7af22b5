"""Networks by name: a table, and `<decoder>_<encoder>` for every decoder of smp over every encoder of smp or timm.

A builder takes (channels_in, channels_out, weights) and gives a module: normalised images (B, channels_in, S, S) ->
logits (B, channels_out, S, S), or a DeepOutput.
"""

from collections.abc import Callable
from functools import cache

import segmentation_models_pytorch as smp
import timm
from torch import nn

from net.unet import DeeplySupervisedUNet, UNet
from net.weights import built_with
from utils.errors import UsageError
from utils.names import nearest

Build = Callable[[int, int, str | None], nn.Module]

STANDARD = (256, 128, 64, 32, 16)
NARROW = (64, 48, 32, 24, 16)
WIDE_RESNET = "tu-wide_resnet50_2"


def _encoder(name: str, channels_in: int, weights: str | None) -> nn.Module:
    return smp.encoders.get_encoder(name, in_channels=channels_in, depth=5, weights=weights)


def unet_resnet34_v1(channels_in: int, channels_out: int, weights: str | None) -> nn.Module:
    """scSE decoder, hypercolumn, dropout."""
    return UNet(_encoder("resnet34", channels_in, weights), STANDARD, channels_out, True, hypercolumn=32, dropout=0.3)


def wide_resnet_v1(channels_in: int, channels_out: int, weights: str | None) -> nn.Module:
    return UNet(_encoder(WIDE_RESNET, channels_in, weights), STANDARD, channels_out)


def wide_resnet_v2(channels_in: int, channels_out: int, weights: str | None) -> nn.Module:
    """A narrow decoder."""
    return UNet(_encoder(WIDE_RESNET, channels_in, weights), NARROW, channels_out)


def wide_resnet_hypercolumn(channels_in: int, channels_out: int, weights: str | None) -> nn.Module:
    return UNet(_encoder(WIDE_RESNET, channels_in, weights), NARROW, channels_out, hypercolumn=32)


def wide_resnet_se(channels_in: int, channels_out: int, weights: str | None) -> nn.Module:
    """scSE in the decoder."""
    return UNet(_encoder(WIDE_RESNET, channels_in, weights), NARROW, channels_out, scse=True)


def wide_resnet_border(channels_in: int, channels_out: int, weights: str | None) -> nn.Module:
    """scSE and hypercolumn: borders are thin, and need the fine maps beside the deep ones."""
    return UNet(_encoder(WIDE_RESNET, channels_in, weights), NARROW, channels_out, scse=True, hypercolumn=32)


def seresnext(channels_in: int, channels_out: int, weights: str | None) -> nn.Module:
    return UNet(_encoder("se_resnext50_32x4d", channels_in, weights), NARROW, channels_out, scse=True)


def ds_resnet_34(channels_in: int, channels_out: int, weights: str | None) -> nn.Module:
    """Deep supervision: fused mask, image class, side masks."""
    return DeeplySupervisedUNet(_encoder("resnet34", channels_in, weights), NARROW, channels_out, 32, dropout=0.3)


ARCHITECTURES: dict[str, Build] = {
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
    """smp's decoders by lower-case name: unet, unetplusplus, fpn, ..."""
    classes = [getattr(smp, name) for name in dir(smp) if isinstance(getattr(smp, name), type)]
    return {kind.__name__.lower(): kind for kind in classes}


def architecture_by_name(name: str) -> Build:
    """The builder of a named network or of `<decoder>_<encoder>`.

    Raises:
        UsageError: no such network; the message has the nearest names.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    decoder, _, encoder = name.partition("_")
    if decoder not in decoders():
        known = [*ARCHITECTURES, *(f"{kind}_resnet34" for kind in decoders())]
        raise UsageError(f"--arch {name}: no such network, and no <decoder>_<encoder>; {nearest(name, known)}")
    smp_encoders = smp.encoders.encoders
    if encoder not in smp_encoders and timm.is_model(encoder.removeprefix("tu-").partition(".")[0]):
        encoder = "tu-" + encoder.removeprefix("tu-")
    elif encoder not in smp_encoders:
        known = [f"{decoder}_{one}" for one in [*smp_encoders, *timm.list_models()]]
        raise UsageError(f"--arch {name}: no encoder {encoder} in smp or timm; {nearest(name, known)}")
    any_size = {"dynamic_img_size": True} if decoder == "dpt" else {}  # its transformers have one size otherwise
    return lambda channels_in, channels_out, weights: decoders()[decoder](
        encoder, encoder_weights=weights, in_channels=channels_in, classes=channels_out, **any_size
    )


def build_network(arch: str, channels_in: int, channels_out: int = 1, encoder_weights: str = "none") -> nn.Module:
    """A network by name.

    Args:
        arch: a name of ARCHITECTURES or `<decoder>_<encoder>`.
        channels_in: 1 (grey) or 3 (RGB); pretrained first layers are adapted.
        channels_out: logits a pixel.
        encoder_weights: imagenet, none, or a file with the encoder's state dict.

    Raises:
        UsageError: unknown names, a decoder that does not fit the encoder.
        UserError: weights that cannot be had or do not fit.
    """
    build = architecture_by_name(arch)
    return built_with(arch, encoder_weights, lambda weights: build(channels_in, channels_out, weights))
