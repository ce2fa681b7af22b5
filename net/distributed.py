"""Processes that train or predict together, started by torchrun; without torchrun there is one process."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from utils.core.errors import ReportedElsewhere, UserError
from utils.core.interrupts import StopRequest

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Processes:
    """This process and its group; if it is the only process, no method communicates."""

    rank: int = 0
    """Number of this process; process 0 writes the files."""
    size: int = 1
    """Number of processes."""
    local_rank: int = 0
    """Number of this process on its machine; it uses the GPU of this number."""
    own_gpus: bool = False
    """True if each process has a GPU of its own, so that gradients travel by NCCL; else they travel by gloo."""
    control: Any = None
    """Process group (gloo) for small objects and CPU tensors; gradients use the default group."""

    @property
    def is_main(self) -> bool:
        """True if this process writes the files and prints."""
        return self.rank == 0

    def on_main(self, work: Callable[[], T]) -> T:
        """Run `work` in process 0 only and return its result in every process."""
        result = [work() if self.is_main else None]
        if self.size > 1:
            with together():
                dist.broadcast_object_list(result, src=0, group=self.control)
        return result[0]

    def map_in_order(self, items: Sequence[T], work: Callable[[T], R]) -> Iterator[tuple[T, R]]:
        """Apply `work` to all items and yield (item, result) in order, in process 0 only.

        The items are divided among the processes. Each process takes one item at a time, so memory does not grow with
        the number of items.
        """
        for start in range(0, len(items), self.size):
            index = start + self.rank
            result = work(items[index]) if index < len(items) else None
            if self.size == 1:
                yield items[index], result
                continue
            results = [None] * self.size if self.is_main else None
            with together():
                dist.gather_object(result, results, dst=0, group=self.control)
            if self.is_main:
                yield from zip(items[start:], results)  # noqa: B905 - the last round may have fewer items

    def sum_over(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their sums over all processes, with one message per dtype."""
        if self.size == 1:
            return
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_dtype.setdefault(tensor.dtype, []).append(tensor)
        for group in by_dtype.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in group])
            with together():
                dist.all_reduce(flat)
            pieces = flat.split([tensor.numel() for tensor in group])
            for tensor, piece in zip(group, pieces, strict=True):
                tensor.copy_(piece.view(tensor.shape))

    def copy_from_main(self, network: torch.nn.Module) -> None:
        """Overwrite the weights and buffers of a network with those of process 0."""
        if self.size > 1:
            with together(), torch.no_grad():
                for tensor in network.state_dict().values():
                    source = tensor.contiguous()
                    dist.broadcast(source, src=0)
                    tensor.copy_(source)

    def check_equal(self, values: dict[str, object]) -> None:
        """Check that every process has the same values.

        Raises:
            UserError: a value differs from the one in process 0.
        """
        leading = self.on_main(lambda: values)
        for name, value in values.items():
            if value != leading[name]:
                raise UserError(
                    f"process {self.rank} of {self.size}: {name}: expected {leading[name]} as in process 0, "
                    f"found {value}; use the same flags, data and type of processor on all machines"
                )

    def raise_if_stopped(self, stop: StopRequest, message: str) -> None:
        """Raise Interrupted in all processes if one of them was asked to stop, as `StopRequest.obey` does."""
        if self.size > 1:
            asked = torch.tensor(stop.signal_number)  # a later signal takes effect at the next step, in all processes
            try:
                with together():
                    dist.all_reduce(asked, dist.ReduceOp.MAX, group=self.control)
            except UserError:
                stop.obey(message)  # if this process was asked to stop as well, that is the reason to report
                raise
            if not int(asked):
                return
            stop.signal_number = int(asked)
        stop.obey(message)


@contextmanager
def together() -> Iterator[None]:
    """Raise UserError if another process ends while the block waits for it, so that a dead process ends all of them."""
    try:
        yield
    except RuntimeError as error:
        raise UserError(
            f"process {dist.get_rank()} of {dist.get_world_size()}: another process has ended; finished work is "
            "kept (--resume continues a training run with any number of processes)"
        ) from error


@contextmanager
def join_processes() -> Iterator[Processes]:
    """Join the processes that torchrun has started, read from its environment variables, and leave them at the end.

    An error that ends the processes is reported once, by the first process that encounters it.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Processes()
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    _share_cores()
    store, _, _ = next(dist.rendezvous("env://"))
    own_gpus = torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    backend = "cpu:gloo,cuda:nccl" if own_gpus else "gloo"  # NCCL refuses processes that share a GPU
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        yield Processes(rank, size, local_rank, own_gpus, dist.new_group(backend="gloo"))
    except Exception as error:
        if not _is_first_to_report(store):
            raise ReportedElsewhere(getattr(error, "exit_code", 1)) from error
        raise
    finally:
        dist.destroy_process_group()


def _share_cores() -> None:
    """Divide the cores among the processes of this machine, because torchrun limits each process to one thread."""
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _is_first_to_report(store: dist.Store) -> bool:
    try:
        return store.add("told", 1) == 1
    except RuntimeError:  # the process that hosted the store has died without reporting
        return True
