"""The project's U-Net over any encoder, with optional scSE, hypercolumn, dropout and deep supervision."""

from collections.abc import Sequence

import torch
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock
from torch import Tensor, nn
from torch.nn import functional as F

from net.outputs import DeepOutput


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015, arXiv 1505.04597) over an encoder with five halvings.

    Args:
        encoder: returns six feature maps, from the input size down to 1/32, like the encoders of smp.
        decoder_channels: channels after each of the five upsampling blocks, deepest first.
        channels_out: logits per pixel.
        scse: concurrent squeeze and excitation in each block (Roy et al. 2018, arXiv 1803.02579).
        hypercolumn: channels that each block passes to the head at full size (Hariharan et al. 2015, arXiv 1411.5752);
            0 passes only the output of the last block.
        dropout: share of the head's input channels that are dropped in training.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder_channels: Sequence[int],
        channels_out: int,
        scse: bool = False,
        hypercolumn: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        skips = list(encoder.out_channels[1:])[::-1]
        inputs = [skips[0], *decoder_channels[:-1]]
        self.blocks = nn.ModuleList(
            UnetDecoderBlock(before, skip, after, attention_type="scse" if scse else None)
            for before, skip, after in zip(inputs, [*skips[1:], 0], decoder_channels, strict=True)
        )
        self.blocks[-1].attention1 = nn.Identity()  # it would weight the skip connection, and the last block has none
        # 1x1 convolutions give the same result before upsampling as after it, at a fraction of the cost
        self.columns = nn.ModuleList(nn.Conv2d(c, hypercolumn, 1) for c in decoder_channels) if hypercolumn else None
        width = hypercolumn * len(decoder_channels) if hypercolumn else decoder_channels[-1]
        self.head = nn.Sequential(nn.Dropout2d(dropout), _head(width, channels_out, 3))

    def decode(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the deepest feature map and the output of each decoder block, for normalised images (B, C, S, S)."""
        maps = self.encoder(images)
        skips = [*maps[1:-1][::-1], None]
        sizes = [level.shape[-2:] for level in maps[:-1]][::-1]
        x, stages = maps[-1], []
        for block, skip, (height, width) in zip(self.blocks, skips, sizes, strict=True):
            x = block(x, height, width, skip_connection=skip)
            stages.append(x)
        return maps[-1], stages

    def fuse(self, stages: list[Tensor], size: torch.Size) -> Tensor:
        """Return the logits (B, channels_out, S, S) for the outputs of the decoder blocks; `size` is (S, S)."""
        if self.columns is None:
            return self.head(stages[-1])
        columns = [_enlarged(column(stage), size) for column, stage in zip(self.columns, stages, strict=True)]
        return self.head(torch.cat(columns, dim=1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, channels_out, S, S) for normalised images (B, C, S, S)."""
        _, stages = self.decode(images)
        return self.fuse(stages, images.shape[-2:])


class DeeplySupervisedUNet(UNet):
    """A U-Net that also predicts whether the image is not empty, and a mask from each decoder block alone."""

    def __init__(
        self,
        encoder: nn.Module,
        decoder_channels: Sequence[int],
        channels_out: int,
        hypercolumn: int,
        dropout: float,
    ) -> None:
        super().__init__(encoder, decoder_channels, channels_out, scse=True, hypercolumn=hypercolumn, dropout=dropout)
        self.image_head = nn.Linear(encoder.out_channels[-1], 1)
        self.side_heads = nn.ModuleList(_head(channels, channels_out, 1) for channels in decoder_channels)

    def forward(self, images: Tensor) -> DeepOutput:
        """Return the fused mask, the image class and the side masks, for normalised images (B, C, S, S)."""
        deepest, stages = self.decode(images)
        size = images.shape[-2:]
        return DeepOutput(
            fused=self.fuse(stages, size),
            image=self.image_head(deepest.mean((2, 3)))[:, 0],
            sides=[_enlarged(head(stage), size) for head, stage in zip(self.side_heads, stages, strict=True)],
        )


def _head(channels_in: int, channels_out: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2)


def _enlarged(maps: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
