"""The processes that train or predict together, as torchrun starts them; one process where nobody started several."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from utils.core.errors import ToldElsewhere, UserError
from utils.core.interrupts import StopRequest

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Processes:
    """This process among those that work together; with one process every method is the plain thing."""

    rank: int = 0
    """Number of this process; 0 writes."""
    size: int = 1
    """Number of processes."""
    local_rank: int = 0
    """Number of this process on its machine, which is the number of its GPU."""
    control: Any = None
    """The group for small things and CPU tensors (gloo), beside that for gradients."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def on_main(self, work: Callable[[], T]) -> T:
        """Do `work` in the leading process alone; every process gets its result."""
        result = [work() if self.is_main else None]
        if self.size > 1:
            with together():
                dist.broadcast_object_list(result, src=0, group=self.control)
        return result[0]

    def map_in_order(self, items: Sequence[T], work: Callable[[T], R]) -> Iterator[tuple[T, R]]:
        """`work` of all items, shared out over the processes: (item, result) in order, in the leading process alone.

        One item a process at a time, so that memory does not grow with the number of items.
        """
        for start in range(0, len(items), self.size):
            mine = start + self.rank
            result = work(items[mine]) if mine < len(items) else None
            if self.size == 1:
                yield items[mine], result
                continue
            results = [None] * self.size if self.is_main else None
            with together():
                dist.gather_object(result, results, dst=0, group=self.control)
            if self.is_main:
                yield from zip(items[start:], results)  # noqa: B905 - the last turn has fewer items than processes

    def sum_over(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their sums over all processes; all go in one message for each dtype."""
        if self.size == 1:
            return
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_dtype.setdefault(tensor.dtype, []).append(tensor)
        for alike in by_dtype.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in alike])
            with together():
                dist.all_reduce(flat)
            pieces = flat.split([tensor.numel() for tensor in alike])
            for tensor, piece in zip(alike, pieces, strict=True):
                tensor.copy_(piece.view(tensor.shape))

    def copy_from_main(self, network: torch.nn.Module) -> None:
        """Take over the leading process' weights and statistics."""
        if self.size > 1:
            with together(), torch.no_grad():
                for tensor in network.state_dict().values():
                    whole = tensor.contiguous()
                    dist.broadcast(whole, src=0)
                    tensor.copy_(whole)

    def check_equal(self, values: dict[str, object]) -> None:
        """Make sure that every process has the same values.

        Raises:
            UserError: one of them is another than in the leading process.
        """
        leading = self.on_main(lambda: values)
        for name, value in values.items():
            if value != leading[name]:
                raise UserError(
                    f"process {self.rank} of {self.size}: {name}: expected {leading[name]} as in process 0, "
                    f"found {value}; give all machines the same flags, data and kind of processor"
                )

    def obey_stop(self, stop: StopRequest, message: str) -> None:
        """Stop in all processes if one of them was asked to; raises Interrupted, as `StopRequest.obey` does."""
        if self.size > 1:
            asked = torch.tensor(stop.signal_number)  # one that comes from here on counts at the next step, for all
            try:
                with together():
                    dist.all_reduce(asked, dist.ReduceOp.MAX, group=self.control)
            except UserError:
                stop.obey(message)  # asked to stop like the one that has left: no word of a dead process
                raise
            if not int(asked):
                return
            stop.signal_number = int(asked)
        stop.obey(message)


@contextmanager
def together() -> Iterator[None]:
    """Around whatever waits for the other processes, so that one that has died ends all; raises UserError."""
    try:
        yield
    except RuntimeError as error:
        raise UserError(
            f"process {dist.get_rank()} of {dist.get_world_size()}: another process has ended; what was finished is "
            "kept (--resume goes on with a training, with any number of processes)"
        ) from error


@contextmanager
def join_processes() -> Iterator[Processes]:
    """Join the processes that torchrun has started (it says so in the environment), and leave them at the end.

    An error that ends the processes is told once: by the first that runs into it.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Processes()
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    _share_cores()
    store, _, _ = next(dist.rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        yield Processes(rank, size, local_rank, dist.new_group(backend="gloo"))
    except Exception as error:
        if not _is_first_to_tell(store):
            raise ToldElsewhere(getattr(error, "exit_code", 1)) from error
        raise
    finally:
        dist.destroy_process_group()


def _share_cores() -> None:
    """Divide the cores among the processes of this machine; torchrun leaves each process one, whatever there is."""
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _is_first_to_tell(store: dist.Store) -> bool:
    try:
        return store.add("told", 1) == 1
    except RuntimeError:  # whoever kept the store has died without a word
        return True
