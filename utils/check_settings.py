"""Numbers among the flags that make no sense, alone or together."""

from utils.errors import UsageError
from utils.settings import TrainSettings


def epochs_in_cycle(settings: TrainSettings) -> int:
    """The epochs of each cycle, once every number among the flags of a training makes sense.

    Raises:
        UsageError: the first that does not.
    """
    learn, step = settings.learn, settings.step
    at_least_one = {"batch_size": learn.batch_size, "n_epochs": learn.n_epochs, "cycles": learn.cycles}
    at_least_one |= {"epoch_size": learn.epoch_size, "accumulate": step.accumulate, "keep": settings.run.keep}
    for name, value in at_least_one.items():
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}: expected 1 or more")
    if learn.n_epochs % learn.cycles:
        raise UsageError(f"--n_epochs {learn.n_epochs} cannot be divided into --cycles {learn.cycles} of equal length")
    epochs = learn.n_epochs // learn.cycles
    if step.warmup < 0:
        raise UsageError(f"--warmup {step.warmup}: expected a number of steps, 0 or more")
    if step.grad_clip is not None and not step.grad_clip > 0:
        raise UsageError(f"--grad_clip {step.grad_clip}: expected a length greater than 0, such as 1")
    if step.ema is not None and not 0 < step.ema < 1:
        raise UsageError(f"--ema {step.ema}: expected a decay between 0 and 1, such as .999")
    if step.swa is not None and not 1 <= step.swa <= epochs:
        raise UsageError(f"--swa {step.swa}: expected an epoch of the cycle, 1 to {epochs}")
    if step.ema is not None and step.swa is not None:
        raise UsageError(f"--ema {step.ema} and --swa {step.swa}: one mean of weights can predict; leave one out")
    return epochs
