"""Formats of an exported network by name: how a module is written to a file, and how the file is run for comparison."""

import io
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

NAME = "strata"
DESCRIPTION = f"{NAME}.json"
"""Name of the extra file that holds the description; in ONNX files the metadata hold it under NAME."""
Sizes = Mapping[int, tuple[str, int]]
"""Axes of the images that may have any length: axis -> (name, minimum length)."""
Run = Callable[[np.ndarray], np.ndarray]
"""Images (B, C, h, w) uint8 -> probabilities float32."""


@dataclass(frozen=True)
class Format:
    """A file format."""

    write: Callable[[nn.Module, Tensor, Sizes, dict[str, Any]], bytes]
    """(module, example images to trace it with, free axes, description) -> content of the file."""
    read: Callable[[Path], Run]
    """path -> function that runs the file on the CPU, as another program would."""


def _program(module: nn.Module, images: Tensor, sizes: Sizes) -> torch.export.ExportedProgram:
    free = {axis: torch.export.Dim(name, min=least) for axis, (name, least) in sizes.items()}
    program = torch.export.export(
        module,
        (images,),
        dynamic_shapes=(free,),
        prefer_deferred_runtime_asserts_over_guards=True,  # torch cannot prove true guards like 1 % (512 * n) != 0
    )
    for part in program.graph_module.modules():
        if isinstance(part, torch.fx.GraphModule):
            for node in part.graph.nodes:
                node.meta.pop("stack_trace", None)  # contains paths of this machine
    return program


def _torch_export(module: nn.Module, images: Tensor, sizes: Sizes, about: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    torch.export.save(_program(module, images, sizes), content, extra_files={DESCRIPTION: json.dumps(about)})
    return content.getvalue()


def _run_torch_export(path: Path) -> Run:
    return _of_arrays(torch.export.load(io.BytesIO(path.read_bytes())).module())


def _onnx(module: nn.Module, images: Tensor, sizes: Sizes, about: dict[str, Any]) -> bytes:
    import onnx

    program = torch.onnx.export(
        _program(module, images, sizes),
        input_names=["images"],
        output_names=["probabilities"],
        dynamic_shapes={"images": {axis: name for axis, (name, _) in sizes.items()}},  # names the free axes
        verbose=False,
    )
    model = program.model_proto
    onnx.helper.set_model_props(model, {NAME: json.dumps(about)})
    return model.SerializeToString()


def _run_onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised as exceptions as well
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["probabilities"], {"images": images})[0]


def _torchscript(module: nn.Module, images: Tensor, _sizes: Sizes, about: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings():
        _ignore_deprecation()
        # this warning says that the trace may not hold for other sizes, which the comparison checks
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(module, (images,), check_trace=False)
        torch.jit.save(traced, content, _extra_files={DESCRIPTION: json.dumps(about)})
    return content.getvalue()


def _run_torchscript(path: Path) -> Run:
    with warnings.catch_warnings():
        _ignore_deprecation()
        return _of_arrays(torch.jit.load(path, map_location="cpu"))


def _ignore_deprecation() -> None:
    """Ignore torch's warnings that TorchScript is deprecated, because the script prints this once itself."""
    warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", FutureWarning)


def _of_arrays(module: nn.Module) -> Run:
    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(images)).numpy()

    return run


FORMATS: dict[str, Format] = {
    "onnx": Format(_onnx, _run_onnx),
    "torchscript": Format(_torchscript, _run_torchscript),
    "torch_export": Format(_torch_export, _run_torch_export),
}
