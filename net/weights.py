"""Where the first weights of a network come from: chance, the hub, or a file."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from utils.errors import UsageError, UserError


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
