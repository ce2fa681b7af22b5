"""Networks that answer for a whole image: any model of timm, any encoder of smp."""

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn

from net.weights import built_with
from utils.errors import UsageError
from utils.names import nearest


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
