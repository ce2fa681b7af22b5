"""Write a snapshot as one file that other programs run: for ONNX Runtime, C++, or torch without this project.

python utils/export.py experiments/a_fold0                                    # its best snapshot, as ONNX beside it
python utils/export.py experiments/a_fold0 --to torch_export --out model.pt2
python utils/export.py experiments/a_fold0/snapshots/epoch_20.loss_0.1063.iout_0.855 --to torchscript

The file takes images (B, C, height, width) uint8, any number at a time, and gives the probabilities that predict.py has
in float32. It is compared with the network first, and not left where it differs by more than .001.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from utils.core.cli import run
from utils.core.errors import UsageError, UserError
from utils.runs.run_folder import find_snapshots

ENDS = {"onnx": ".onnx", "torchscript": ".torchscript.pt", "torch_export": ".pt2"}
NEEDED = ("onnx", "onnxscript", "onnxruntime")
"""Packages for ONNX: to build the graph, and to run it beside the network."""


@dataclass(frozen=True)
class Settings:
    """All flags of export.py."""

    snapshot: Positional[str]
    """snapshot file, or experiment folder (its best one)."""
    to: Literal["onnx", "torchscript", "torch_export"] = "onnx"
    """onnx: any runtime; torch_export: torch.export's .pt2; torchscript: C++ and older torch, deprecated by torch."""
    out: str | None = None
    """the file; default: beside the snapshot, its name and .onnx, .torchscript.pt or .pt2."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Write the file and say in a line what it takes and gives."""
    (snapshot,) = find_snapshots([settings.snapshot], "SNAPSHOT")
    out = _place(snapshot, settings)
    if settings.to == "onnx" and (missing := [name for name in NEEDED if find_spec(name) is None]):
        raise UserError(f"--to onnx: needs {', '.join(missing)}; pip install -e '.[export]', or --to torch_export")

    from net.export import export

    exported = export(snapshot, settings.to, out)
    images, probabilities = exported.about["images"], exported.about["probabilities"]
    print(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, images {_said(images)} -> probabilities {_said(probabilities)}, "
        f"differs from the network by at most {exported.difference:.1g}"
    )
    if scaled := images["scaled"]:
        print("images of {}x{} come resized to {}x{} ({})".format(*scaled["from"], *scaled["to"], scaled["by"]))
    if exported.tied:
        print(f"images are of this size alone, as the exporter cannot leave the sides open ({exported.tied})")
    if settings.to == "torchscript":
        print("torch calls TorchScript deprecated; what comes after it is --to torch_export")


def _place(snapshot: Path, settings: Settings) -> Path:
    """Where the file goes: a name that its format has, and nothing there yet."""
    out = Path(settings.out or f"{snapshot}{ENDS[settings.to]}")
    suffix = ENDS[settings.to].rpartition(".")[2]
    if not out.name.endswith(f".{suffix}"):  # torch.export reads no file of another name
        raise UsageError(f"--out {out}: expected a name that ends in .{suffix} for --to {settings.to}")
    if out.exists():
        raise UserError(f"{out}: is there already; remove it, or name another file by --out")
    return out


def _said(tensor: dict[str, Any]) -> str:
    return f"({', '.join(map(str, tensor['shape']))}) {tensor['dtype']}"


if __name__ == "__main__":
    run(main, Settings)
