"""What a run says while it goes on: lines to read, TensorBoard, a tracker, status.json, its model card."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from net.checkpoint_and_resume import NO_RESULTS, Checkpoints
from net.tensorboard import Board
from utils.core.progress import TimeLeft, duration
from utils.core.training_settings import TellSettings
from utils.report.model_card import write_model_card
from utils.runs.trackers import Tracking, tracking


@dataclass(frozen=True)
class Reporter:
    """Everybody who hears of a run; the leading process alone has one."""

    checkpoints: Checkpoints
    flags: dict[str, Any]
    left: TimeLeft
    tell: TellSettings
    board: Board
    tracking: Tracking

    def say(self, line: str) -> None:
        """A line to read, unless --quiet."""
        if not self.tell.quiet:
            print(line, flush=True)

    def epoch(self, row: dict[str, Any], improved: Sequence[str], skipped: int) -> None:
        """An epoch is written."""
        self.left.epoch_took(row["seconds"])
        self.tracking.epoch(row)
        scores = "  ".join(f"{name} {row[name]:.4f}" for name in row if name not in ("epoch", "cycle", *NO_RESULTS))
        n_epochs, epoch = self.flags["n_epochs"], row["epoch"]
        line = f"epoch {epoch}/{n_epochs}  {scores}  lr {row['lr']:.2g}  {row['images_per_s']:.0f} images/s"
        line += f"  {duration(self.left.seconds())} left" if epoch < n_epochs else ""
        line += f"  better {', '.join(improved)}" if improved else ""
        line += f"  {skipped} steps skipped: no finite loss" if skipped else ""
        self.say(line)

    def finish(self, summary: dict[str, Any]) -> None:
        """The run has finished and its summary is written."""
        folder = self.checkpoints.folder
        best = folder.path / summary["best_snapshot"]
        self.board.finish(self.flags, summary)
        card = write_model_card(folder.path)
        with TemporaryDirectory() as place:
            page = _page(folder.path, Path(place)) if self.tell.tracker else []
            self.tracking.finish(summary, [best, folder.config, folder.log, folder.summary, card, *page])
        scores = ", ".join(f"{name} {summary[name]:.4f}" for name in reversed(self.checkpoints.kept_by))
        print(f"best: {best}  ({scores})", flush=True)


@contextmanager
def reporting(
    checkpoints: Checkpoints, flags: dict[str, Any], tell: TellSettings, left: TimeLeft
) -> Iterator[Reporter]:
    """Tell whoever is to be told of the run in `checkpoints`, from the epochs that are done already to the end."""
    folder = checkpoints.folder
    with (
        Board(folder.path / "tensorboard", checkpoints.progress.epoch) as board,
        tracking(tell.tracker, folder, flags) as tracked,
    ):
        yield Reporter(checkpoints, flags, left, tell, board, tracked)


def _page(run: Path, place: Path) -> list[Path]:
    """The page of one run alone."""
    from utils.report.page import Maker

    Maker([str(run)]).write(place / "report.html")
    return [place / "report.html"]
