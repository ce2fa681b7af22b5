"""Networks by name: a table, `<decoder>_<encoder>` of smp and timm for pixels, any timm model or encoder for images.

A builder takes (channels_in, channels_out, weights) and returns a module: normalised images (B, channels_in, S, S) ->
logits (B, channels_out, S, S), or a DeepOutput; a classifier's logits are (B, channels_out).
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn

from net.unet import DeeplySupervisedUNet, UNet
from utils.core.errors import UsageError, UserError
from utils.core.names import nearest


def built_with(arch: str, encoder_weights: str, build: Callable[[str | None], nn.Module]) -> nn.Module:
    """A network whose encoder has the weights asked for.

    Args:
        arch: its name, for messages.
        encoder_weights: imagenet, none, or a file with the encoder's state dict.
        build: takes "imagenet" or None and gives the network.

    Raises:
        UsageError: no such file, or parts that do not go together.
        UserError: weights that cannot be had or do not fit.
    """
    if encoder_weights != "imagenet":
        if encoder_weights != "none" and not Path(encoder_weights).is_file():
            raise UsageError(
                f"--encoder_weights {encoder_weights}: expected imagenet, none or a file, found no such file"
            )
        network = _built(arch, build, None)
        if encoder_weights != "none":
            from net.snapshot import load_encoder_weights

            load_encoder_weights(network, encoder_weights)
        return network
    try:
        return _built(arch, build, "imagenet")
    except (OSError, RuntimeError) as error:  # hub and http errors are of many kinds, all of them one of these
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
        raise UsageError(f"--arch {arch}: this decoder does not take this encoder ({reason}); choose another") from None


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


class PooledEncoder(nn.Module):
    """An encoder of smp, the mean of its deepest map, and a linear layer.

    Args:
        encoder: gives feature maps, the deepest last.
        channels_out: logits an image.
    """

    def __init__(self, encoder: nn.Module, channels_out: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.out_channels[-1], channels_out)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, S, S) normalised images -> logits (B, channels_out)."""
        return self.head(torch.mean(self.encoder(images)[-1], (2, 3)))


def build_classifier(arch: str, channels_in: int, channels_out: int, encoder_weights: str = "none") -> nn.Module:
    """A network for labels of images.

    Args:
        arch: a model of timm (resnet18, convnext_tiny, ...) or an encoder of smp.
        channels_in: 1 (grey) or 3 (RGB).
        channels_out: logits an image.
        encoder_weights: imagenet, none, or a file with the state dict of all but the head.

    Raises:
        UsageError: unknown names.
        UserError: weights that cannot be had or do not fit.
    """
    encoders = smp.encoders.encoders

    def build(weights: str | None) -> nn.Module:
        if arch in encoders:
            encoder = smp.encoders.get_encoder(arch, in_channels=channels_in, depth=5, weights=weights)
            return PooledEncoder(encoder, channels_out)
        return timm.create_model(arch, pretrained=weights is not None, in_chans=channels_in, num_classes=channels_out)

    if arch not in encoders and not timm.is_model(arch.partition(".")[0]):
        raise UsageError(f"--arch {arch}: no model of timm or encoder of smp; {nearest(arch, _known())}")
    return built_with(arch, encoder_weights, build)


def _known() -> list[str]:
    return [*smp.encoders.encoders, *timm.list_models()]
