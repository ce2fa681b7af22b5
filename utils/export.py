"""Export a snapshot to one file that other programs can run: ONNX Runtime, C++, or torch without this project.

python utils/export.py experiments/a_fold0                                    # its best snapshot, as ONNX next to it
python utils/export.py experiments/a_fold0 --to torch_export --out model.pt2
python utils/export.py experiments/a_fold0/snapshots/epoch_20.loss_0.1063.iout_0.855 --to torchscript

The exported network takes any number of images (B, C, height, width) uint8 at a time and returns the probabilities that
predict.py computes in float32. It is compared with the original network, and no file is left if a probability differs
by more than .001.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from utils.core.cli import run
from utils.core.errors import UsageError, UserError
from utils.core.settings import OptionalText
from utils.runs.run_folder import find_snapshots

ENDS = {"onnx": ".onnx", "torchscript": ".torchscript.pt", "torch_export": ".pt2"}
NEEDED = ("onnx", "onnxscript", "onnxruntime")
"""Packages for ONNX: two to build the graph, and one to run it for the comparison with the network."""


@dataclass(frozen=True)
class Settings:
    """All flags of export.py."""

    snapshot: Positional[str]
    """snapshot file, or experiment folder, whose best snapshot is exported."""
    to: Literal["onnx", "torchscript", "torch_export"] = "onnx"
    """onnx: any runtime; torch_export: torch.export's .pt2; torchscript: C++ and older torch, deprecated by torch."""
    out: OptionalText = None
    """file to write; default: the path of the snapshot with .onnx, .torchscript.pt or .pt2 appended."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Export the snapshot and print the shapes of input and output."""
    (snapshot,) = find_snapshots([settings.snapshot], "SNAPSHOT")
    out = _place(snapshot, settings)
    if settings.to == "onnx" and (missing := [name for name in NEEDED if find_spec(name) is None]):
        raise UserError(f"--to onnx: needs {', '.join(missing)}; pip install -e '.[export]', or use --to torch_export")

    from net.export import export

    exported = export(snapshot, settings.to, out)
    images, probabilities = exported.about["images"], exported.about["probabilities"]
    print(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, images {_shown(images)} -> probabilities {_shown(probabilities)}, "
        f"differs from the network by at most {exported.difference:.1g}"
    )
    if stretched := images["contrast_stretched"]:
        low, high = stretched["percentiles"]
        print(f"stretch each channel from its percentiles {low:g} and {high:g} to 0 and 255 first (net/geometry.py)")
    if scaled := images["scaled"]:
        print("resize images from {}x{} to {}x{} first ({})".format(*scaled["from"], *scaled["to"], scaled["by"]))
    if exported.tied:
        print(f"the size of the images is fixed, because the exporter cannot make it dynamic ({exported.tied})")
    if settings.to == "torchscript":
        print("TorchScript is deprecated by torch; its successor is --to torch_export")


def _place(snapshot: Path, settings: Settings) -> Path:
    """Return the path of the new file; raise UserError if its suffix is wrong or it exists."""
    out = Path(settings.out or f"{snapshot}{ENDS[settings.to]}")
    suffix = ENDS[settings.to].rpartition(".")[2]
    if not out.name.endswith(f".{suffix}"):  # torch.export only loads files with its suffix
        raise UsageError(f"--out {out}: expected a name that ends in .{suffix} for --to {settings.to}")
    if out.exists():
        raise UserError(f"{out}: the file already exists; remove it, or name another file with --out")
    return out


def _shown(tensor: dict[str, Any]) -> str:
    return f"({', '.join(map(str, tensor['shape']))}) {tensor['dtype']}"


if __name__ == "__main__":
    run(main, Settings)
