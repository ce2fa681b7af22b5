"""Replay work on a GPU as CUDA graphs: a small network spends most of a step waiting for Python to launch kernels."""

import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

CALLS_BEFORE = 2
"""Calls that run as usual before the work is recorded: they create what later ones reuse, such as momenta."""

Work = Callable[..., Tensor | None]


@dataclass(frozen=True)
class Recorded:
    """A graph, and the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Tensor | None


@dataclass
class Graphs:
    """Work by key, recorded on its third call and replayed from then on.

    A replay launches the same kernels on the same memory, so it computes the same bits. Work must not read a value back
    from the GPU, and what it changes in place must stay where it is.
    """

    stream: torch.cuda.Stream
    calls: Counter[Hashable] = field(default_factory=Counter)
    recorded: dict[Hashable, Recorded | None] = field(default_factory=dict)
    """None for work that cannot be recorded."""

    def run(self, key: Hashable, work: Work, *inputs: Tensor) -> Tensor | None:
        """Return `work(*inputs)`.

        Args:
            key: equal for calls whose work and whose inputs' shapes are equal.
            work: function that may change other tensors in place.
            inputs: tensors on the GPU, whose values differ from call to call.
        """
        self.calls[key] += 1
        if self.calls[key] <= CALLS_BEFORE:
            return self._aside(work, inputs)
        if key not in self.recorded:
            self.recorded[key] = self._recorded(work, inputs)
        found = self.recorded[key]
        if found is None:
            return self._aside(work, inputs)
        for place, value in zip(found.inputs, inputs, strict=True):
            place.copy_(value)
        found.graph.replay()
        return None if found.output is None else found.output.clone()

    def _aside(self, work: Work, inputs: tuple[Tensor, ...]) -> Tensor | None:
        """Run work on the stream that it is recorded on."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            output = work(*inputs)
        torch.cuda.current_stream().wait_stream(self.stream)
        return output

    def _recorded(self, work: Work, inputs: tuple[Tensor, ...]) -> Recorded | None:
        """Record work without running it; all graphs share their memory, because they run one after another."""
        pool = next((one.graph.pool() for one in self.recorded.values() if one), None)
        graph, own = torch.cuda.CUDAGraph(), tuple(value.clone() for value in inputs)
        try:
            # thread_local: a loader's thread that pins memory meanwhile would end a recording of the whole process
            with torch.cuda.graph(graph, pool=pool, stream=self.stream, capture_error_mode="thread_local"):
                output = work(*own)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            warnings.warn(f"steps are not replayed as CUDA graphs, so they take longer ({reason})", stacklevel=2)
            return None
        return Recorded(graph, own, output)
