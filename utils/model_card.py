"""MODEL_CARD.md of a run: what the net is, what it scores and how sure that is, where it fails, how to use it."""

from pathlib import Path

from utils.errors import UserError
from utils.files import write_text
from utils.report.card import card_text
from utils.report.failures import write_failures
from utils.report.read_run import read_run

CARD, PICTURE = "MODEL_CARD.md", "failures.png"


def write_model_card(folder: Path) -> Path:
    """Write MODEL_CARD.md of a run, and failures.png where its masks and images are at hand.

    What cannot be read is left out, and said; so it can be written at any time, and again once there is a threshold.

    Returns:
        the card.

    Raises:
        UserError: no such folder.
        OSError: it cannot be written.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, so there is no run to write {CARD} of")
    facts = read_run(folder, folder.resolve().name)
    failures = write_failures(facts.judged, folder / PICTURE) if facts.judged else []
    write_text(folder / CARD, card_text(facts, failures, PICTURE))
    return folder / CARD
