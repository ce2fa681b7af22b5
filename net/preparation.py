"""TODO."""

import torch
from torch import nn

from net.averaging import Average
from net.batchnorm import share_statistics
from net.distributed import Processes
from net.kinds import Kind
from net.learner import Learner
from net.losses import Loss
from net.machine import Machine
from net.optimizers import optimizer_by_name
from net.predictor import Predictor
from net.schedulers import scheduler_by_name
from net.snapshot import start_from
from utils.core.errors import UsageError
from utils.core.training_settings import TrainSettings
from utils.runs.run_folder import find_snapshots


def starting_network(
    settings: TrainSettings, channels_in: int, kind: Kind, machine: Machine, processes: Processes, resumed: bool
) -> nn.Module:
    """The network with the weights that training starts from, the same in all processes.

    With `resumed` they are random ones: those of the state replace them.
    """
    net = settings.net
    given = resumed or not processes.is_main  # whatever is loaded here is replaced
    start = None if given or net.snapshot is None else find_snapshots([net.snapshot])[0]
    torch.manual_seed(settings.learn.seed)
    network = kind.build(net.arch, channels_in, "none" if given or start else net.encoder_weights)
    if start:
        start_from(network, start, kind.name)
    if settings.step.sync_batchnorm and processes.size > 1:
        network = share_statistics(network, on_gpu=machine.device.type == "cuda")
    network = network.to(machine.device, memory_format=torch.channels_last)
    processes.copy_from_main(network)
    return network


@torch.inference_mode()
def try_out(arch: str, predictor: Predictor, channels_in: int, size: int, loss: Loss) -> None:
    """A look at black images: a loss or `size` that does not suit the network is found before anything is written.

    Raises:
        UsageError: the network cannot take images of this size, or the loss not its output.
    """
    predictor.network.eval()
    try:
        output = predictor.output(torch.zeros(2, channels_in, size, size, dtype=torch.uint8))
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0][:160]
        raise UsageError(f"--arch {arch}: cannot take images of {size}x{size} ({reason}); choose another") from None
    kind = predictor.kind
    loss(output, torch.zeros(2, len(kind.outputs), *([size] * 2 * kind.of_pixels), device=predictor.machine.device))


def new_learner(
    settings: TrainSettings,
    network: nn.Module,
    loss: Loss,
    machine: Machine,
    processes: Processes,
    epochs: int,
    steps: int,
) -> Learner:
    """Optimizer, schedule and mean of weights as at the start of a cycle of `epochs` with `steps` each."""
    step = settings.step
    optimizer = optimizer_by_name(settings.learn.optimizer)(network.parameters())
    schedule = scheduler_by_name(settings.learn.scheduler)(optimizer, epochs, steps)
    schedule.warmup = step.warmup
    averaged = step.ema is not None or step.swa is not None
    return Learner(
        network=network,
        optimizer=optimizer,
        schedule=schedule,
        scaler=torch.amp.GradScaler(machine.device.type, enabled=machine.dtype == torch.float16),
        loss=loss,
        machine=machine,
        processes=processes,
        average=Average(network, step.ema, step.swa) if averaged else None,
        grad_clip=step.grad_clip,
        skip_bad=step.on_nan == "skip",
    )
