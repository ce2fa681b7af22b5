"""Reporting of a run: printed lines, TensorBoard and a tracker during training, and a model card at the end."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from net.checkpoint_and_resume import NO_RESULTS, Checkpoints
from net.tensorboard import Board
from utils.core.progress import TimeLeft, duration
from utils.core.training_settings import ReportingSettings
from utils.report.model_card import write_model_card
from utils.runs.trackers import Tracking, tracking


@dataclass(frozen=True)
class Reporter:
    """Reporter of one run: terminal, TensorBoard, tracker, model card. Only the main process has one."""

    checkpoints: Checkpoints
    flags: dict[str, Any]
    left: TimeLeft
    settings: ReportingSettings
    board: Board
    tracking: Tracking
    said: set[str] = field(default_factory=set)
    """Beginnings of the lines that are printed once."""

    def say(self, line: str) -> None:
        """Print a line, unless --quiet is set."""
        if not self.settings.quiet:
            print(line, flush=True)

    def say_once(self, line: str) -> None:
        """Print a line unless one with the same first ten characters was printed."""
        if line[:10] not in self.said:
            self.said.add(line[:10])
            self.say(line)

    def epoch(self, row: dict[str, Any], improved: Sequence[str], skipped: int) -> None:
        """Report an epoch after it was written.

        Args:
            row: row of log.csv.
            improved: measures that reached their best value of the cycle.
            skipped: steps that were skipped because their loss or gradient was not finite.
        """
        self.left.epoch_finished(row["seconds"])
        self.tracking.epoch(row)
        scores = "  ".join(f"{name} {row[name]:.4f}" for name in row if name not in ("epoch", "cycle", *NO_RESULTS))
        n_epochs, epoch = self.flags["n_epochs"], row["epoch"]
        line = f"epoch {epoch}/{n_epochs}  {scores}  lr {row['lr']:.2g}  {row['images_per_s']:.0f} images/s"
        line += f"  {duration(self.left.seconds())} left" if epoch < n_epochs else ""
        line += f"  improved {', '.join(improved)}" if improved else ""
        line += f"  {skipped} steps skipped (loss or gradient not finite)" if skipped else ""
        self.say(line)

    def finish(self, summary: dict[str, Any]) -> None:
        """Report the end of the run after its summary was written, and write its model card."""
        folder = self.checkpoints.folder
        best = folder.path / summary["best_snapshot"]
        self.board.finish(self.flags, summary)
        card = write_model_card(folder.path)
        with TemporaryDirectory() as place:
            page = _page(folder.path, Path(place)) if self.settings.tracker else []
            self.tracking.finish(summary, [best, folder.config, folder.log, folder.summary, card, *page])
        scores = ", ".join(f"{name} {summary[name]:.4f}" for name in reversed(self.checkpoints.kept_by))
        print(f"best: {best}  ({scores})", flush=True)


@contextmanager
def reporting(
    checkpoints: Checkpoints, flags: dict[str, Any], settings: ReportingSettings, left: TimeLeft
) -> Iterator[Reporter]:
    """Open the reporter of the run in `checkpoints`, and close it at the end of the block.

    The reports of a resumed run continue after its last finished epoch.
    """
    folder = checkpoints.folder
    with (
        Board(folder.path / "tensorboard", checkpoints.progress.epoch) as board,
        tracking(settings.tracker, folder, flags) as tracked,
    ):
        yield Reporter(checkpoints, flags, left, settings, board, tracked)


def _page(run: Path, place: Path) -> list[Path]:
    """Write the report page of a single run into `place`, and return its path in a list."""
    from utils.report.page import Maker

    Maker([str(run)]).write(place / "report.html")
    return [place / "report.html"]
