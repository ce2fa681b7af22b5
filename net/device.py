"""Device and precision of the network: chosen for the machine, overridden by flags."""

import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache

import torch

from net.cuda_graphs import Graphs
from net.distributed import Processes
from utils.core.errors import UsageError
from utils.core.training_settings import MachineSettings

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
KNOWN = ("auto", "cpu", "cuda", "mps", "xpu")
CPU_ROOM = 2**28  # bytes of images in the memory of a CPU; reading them again is cheap
CLEARLY_SLOWER = 0.8  # a speed below this share of another is no noise
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Machine:
    """A device and how it computes."""

    device: torch.device
    dtype: torch.dtype
    """Dtype of the network's arithmetic; weights, losses and metrics are always float32."""
    compiles: bool = False
    """True if networks are compiled (torch.compile)."""
    autotunes: bool = False
    """True if a GPU may use its fastest kernels instead of kernels that are reproducible bit for bit."""

    def tune(self) -> None:
        """Set this process up for speed: memory allocation on a CPU, kernels on a GPU."""
        if self.device.type == "cpu":
            _keep_freed_memory()
        elif self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            torch.set_float32_matmul_precision("high")  # TF32
            torch.backends.cudnn.benchmark = self.autotunes
            if not self.autotunes:
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not reproducible
                torch.use_deterministic_algorithms(True, warn_only=True)
                torch.utils.deterministic.fill_uninitialized_memory = False  # a kernel more for every new tensor

    @contextmanager
    def tuned(self) -> Iterator[None]:
        """Tune the machine within the block and restore the settings of torch afterwards."""
        precision, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
        exact = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        fill = torch.utils.deterministic.fill_uninitialized_memory
        self.tune()
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
            torch.backends.cudnn.benchmark = benchmark
            torch.use_deterministic_algorithms(exact[0], warn_only=exact[1])
            torch.utils.deterministic.fill_uninitialized_memory = fill

    def preserved_random_state(self) -> AbstractContextManager[object]:
        """Return a context that may reseed torch's global generators; it restores their state at its end."""
        return torch.random.fork_rng([self.device] if self.device.type == "cuda" else [])

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context to run the network in: autocast, or an empty context for float32."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def graphs(self) -> Graphs | None:
        """Return what replays training steps on a GPU; None for other devices, compiled networks and float16.

        Compiled networks launch few kernels as it is, and float16 reads a value back from the GPU in every step.
        """
        fitting = self.device.type == "cuda" and not self.compiles and self.dtype != torch.float16
        return Graphs(torch.cuda.Stream(self.device)) if fitting else None

    @property
    def prediction_batch_size(self) -> int:
        """Batch size at which prediction is fastest; a larger one exceeds the cache of a CPU (bench/LEDGER.md)."""
        return 16 if self.device.type == "cpu" else 64

    @property
    def room_for_images(self) -> int:
        """Bytes of training images that may be kept in the memory of the device."""
        return torch.cuda.mem_get_info(self.device)[0] // 4 if self.device.type == "cuda" else CPU_ROOM

    def __str__(self) -> str:
        name = (
            torch.cuda.get_device_name(self.device)
            if self.device.type == "cuda"
            else f"{torch.get_num_threads()} threads"
        )
        return f"{self.device} ({name}), {str(self.dtype).removeprefix('torch.')}"


def machine(settings: MachineSettings, processes: Processes | None = None) -> Machine:
    """Return the machine that the flags select; of several GPUs, each process takes the one of its `local_rank`.

    If a machine has more processes than GPUs, they share the GPUs, which is slower but works. All processes take the
    precision that the main one measures as fast.

    Raises:
        UsageError: the device is not available.
    """
    processes = processes or Processes()
    device = _device(settings.device, processes.local_rank)
    fixed = PRECISIONS.get(settings.precision)
    dtype = fixed or processes.on_main(lambda: _fast_dtype(device))
    return Machine(device, dtype, settings.compile, settings.autotune)


def workers_for(device: torch.device, requested: int | None) -> int:
    """Return the number of DataLoader workers.

    The default is 0 on a CPU, whose cores are busy with the network, and one per core, at most 8, with a GPU.

    Raises:
        UsageError: the number is negative.
    """
    if requested is None:
        return 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)
    if requested < 0:
        raise UsageError(f"--loader_workers {requested}: expected 0 or more")
    return requested


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        name = accelerator.type if accelerator else "cpu"
    if name.partition(":")[0] not in KNOWN:
        raise UsageError(f"--device {name}: no such device; known: {', '.join(KNOWN)}, cuda:1")
    if name == "cuda":
        name = f"cuda:{local_rank % max(1, torch.cuda.device_count())}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"--device {name}: not available on this machine ({reason}); use auto or cpu") from None
    return device


def _keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next step, because the kernel would have to clear the pages again."""
    try:
        allocator = ctypes.CDLL(None)
        allocator.mallopt(M_MMAP_THRESHOLD, 2**30)
        allocator.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    except (OSError, AttributeError):
        return  # another C library with another allocator


def _fast_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 if the device computes it natively (AVX512_BF16, AMX, Ampere or later), else float32.

    On a CPU this is measured as well, because some builds of torch convolve several times slower in bfloat16.
    """
    if device.type == "cpu":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        float32, bfloat16 = _speeds() if native else (1.0, 0.0)
        fast = bfloat16 > CLEARLY_SLOWER * float32
    else:
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if fast else torch.float32


@cache  # measured once, so that all parts of a process agree
def _speeds() -> tuple[float, float]:
    """Return how many convolutions, forward and backward, this CPU does per second in float32 and in bfloat16.

    Both take turns on one core, and the shortest time of each counts: other work must not change the choice.
    """
    images = torch.zeros(2, 32, 64, 64).to(memory_format=torch.channels_last)
    convolution = torch.nn.Conv2d(32, 32, 3, padding=1, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        for weight in convolution.parameters():
            weight.zero_()

    def seconds(dtype: torch.dtype) -> float:
        started = time.perf_counter()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            convolution(images).sum().backward()
        return time.perf_counter() - started

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other take longest on busy cores
    end = time.perf_counter() + 0.5
    turns = [(seconds(torch.float32), seconds(torch.bfloat16)) for _ in range(4)]
    while time.perf_counter() < end:
        turns.append((seconds(torch.float32), seconds(torch.bfloat16)))
    torch.set_num_threads(threads)
    float32, bfloat16 = (1 / min(one) for one in zip(*turns, strict=True))
    return float32, bfloat16
