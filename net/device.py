"""Where the network runs and in which precision: chosen for the machine, overridden by flags."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch

from utils.core.errors import UsageError
from utils.core.training_settings import MachineSettings

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Machine:
    """One device and how it computes."""

    device: torch.device
    dtype: torch.dtype
    """Of the network's arithmetic; weights, losses and metrics are float32 always."""
    compiles: bool = False
    """Whether networks are translated into kernels of their own."""
    autotunes: bool = False
    """Whether a GPU may take its fastest kernels instead of those that repeat bit for bit."""

    def tune(self) -> None:
        """Set the switches of this process that make the machine fast: memory on a CPU, kernels on a GPU."""
        if self.device.type == "cpu":
            _keep_freed_memory()
        elif self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            torch.set_float32_matmul_precision("high")  # TF32
            torch.backends.cudnn.benchmark = self.autotunes
            if not self.autotunes:
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats itself with this alone
                torch.use_deterministic_algorithms(True, warn_only=True)

    @contextmanager
    def tuned(self) -> Iterator[None]:
        """Within the block the machine is tuned; afterwards the switches are as they were."""
        precision, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
        exact = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        self.tune()
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
            torch.backends.cudnn.benchmark = benchmark
            torch.use_deterministic_algorithms(exact[0], warn_only=exact[1])

    def own_randomness(self) -> AbstractContextManager[object]:
        """The context in which torch's global random numbers are ours; afterwards they go on where they were."""
        return torch.random.fork_rng([self.device] if self.device.type == "cuda" else [])

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which the network runs."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    @property
    def pays_to_predict(self) -> int:
        """Images that are predicted fastest at once: more fall out of a CPU's cache (bench/LEDGER.md)."""
        return 16 if self.device.type == "cpu" else 64

    def __str__(self) -> str:
        name = (
            torch.cuda.get_device_name(self.device)
            if self.device.type == "cuda"
            else f"{torch.get_num_threads()} threads"
        )
        return f"{self.device} ({name}), {str(self.dtype).removeprefix('torch.')}"


def machine(settings: MachineSettings, local_rank: int = 0) -> Machine:
    """The machine that the flags ask for; of several GPUs each process of this machine (`local_rank`) has its own.

    Raises:
        UsageError: a device that is not there.
    """
    device = _device(settings.device, local_rank)
    dtype = _fast_dtype(device) if settings.precision == "auto" else PRECISIONS[settings.precision]
    return Machine(device, dtype, settings.compile, settings.autotune)


def workers_for(device: torch.device, asked: int | None) -> int:
    """Processes that prepare images: as asked, else none beside a CPU's own threads, and a GPU's cores, at most 8.

    Raises:
        UsageError: a negative number.
    """
    if asked is None:
        return 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)
    if asked < 0:
        raise UsageError(f"--loader_workers {asked}: expected 0 or more")
    return asked


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        name = accelerator.type if accelerator else "cpu"
    if name == "cuda":
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"--device {name}: not to be had here ({reason}); use auto or cpu") from None
    return device


def _keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next one: what goes back to the kernel returns page by page, cleared."""
    try:
        allocator = ctypes.CDLL(None)
        allocator.mallopt(M_MMAP_THRESHOLD, 2**30)
        allocator.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    except (OSError, AttributeError):
        return  # another C library, with an allocator of its own


def _fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where it is computed natively: AVX512_BF16 or AMX on a CPU, Ampere and later on a GPU."""
    if device.type == "cpu":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float32
