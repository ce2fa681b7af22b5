"""Average mask files of the same images, such as the test masks of several folds, and write a submission.

python predict_fold_avg.py fold0.npy fold1.npy fold2.npy
python predict_fold_avg.py unet.npy wide.npy --weights 2 1 --th 0.45 --masks_fn mean.npy --fn two_nets
python predict_fold_avg.py unet.npy wide.npy --gate_probs unet_gate.npy --masks_fn mean.npy

The mean is over probabilities, not logits, so that a very certain network has no more weight than the others.
"""

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import Positional

from utils.competition.after_prediction import gated_out_ids
from utils.competition.decisions import decide_masks
from utils.competition.submission_writing import write_mask_submission
from utils.core.arrays import shapes_in
from utils.core.cli import run
from utils.core.errors import UsageError
from utils.core.prediction_settings import Rules, RuleSettings, SubmissionSettings
from utils.core.settings import Floats, OptionalFloat, OptionalText, Texts
from utils.data.packed_data import open_packed, read_manifest
from utils.masks.mask_averaging import check_weights, open_agreeing, weighted_mean
from utils.masks.mask_file import PredictionInfo, check_same_images, mask_writer, open_masks
from utils.masks.probability_file import open_probabilities
from utils.scoring.stored_thresholds import run_folder_of


@dataclass(frozen=True)
class Settings:
    masks: Positional[Texts]
    """mask files to average."""
    weights: Floats = ()
    """a positive number for each file; default: equal weights."""
    data_dir: OptionalText = None
    """packed folder of the images; default: the one recorded in the first mask file."""
    gate_probs: Texts = ()
    """files with the probabilities that the images are not empty, such as the _gate.npy of a predict script."""
    gate_th: OptionalFloat = None
    """images with a probability not greater than this get an empty mask; default: from gate.json (for
    objects from objects.json), else .5."""
    submission: SubmissionSettings = field(default_factory=SubmissionSettings)
    rules: Rules = field(default_factory=RuleSettings)
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Average the mask files, write the mean masks, and write the submission."""
    files, out = open_agreeing(settings.masks), Path(settings.submission.masks_fn)
    shares = check_weights(settings.weights, len(files))
    if any(out.exists() and out.samefile(masks.path) for masks in files):
        raise UsageError(f"--masks_fn {out}: is one of the files to average; use another name for the mean")
    if settings.data_dir:
        read_manifest(settings.data_dir)  # so that a mistyped folder is reported before the averaging
    first = files[0]
    recorded, views = first.info.data_dir, {masks.info.tta for masks in files}
    folder = settings.data_dir or (recorded if recorded and Path(recorded).is_dir() else None)
    if folder:
        check_same_images(first.path, first.info, open_packed(folder, first.info.part or "test"), folder)
    info = PredictionInfo(
        data_dir=settings.data_dir or recorded,
        part=first.info.part or "test",
        images_digest=first.info.images_digest,
        tta=views.pop() if len(views) == 1 else None,
        mean_of=tuple(str(masks.path) for masks in files),
        weights=tuple(shares.tolist()),
    )
    decisions = decide_masks(
        settings.submission,
        settings.rules,
        [folder for masks in files for folder in (masks.path.parent, run_folder_of(masks.path))],
        info,
        Path(folder) if folder else None,
        has_border=first.border is not None,
        gate_th=settings.gate_th,
        has_gate=bool(settings.gate_probs),
    )
    out_ids = gated_out_ids(decisions, first.ids, [open_probabilities(name) for name in settings.gate_probs])
    for note in decisions.notes:
        print(f"note: {note}", flush=True)
    with mask_writer(out, first.ids, shapes_in(first.planes), info) as writer:
        for batch in weighted_mean(files, shares):
            writer.append(batch)
    print(f"{out}: mean of {len(files)} mask files, {len(first.ids)} images")
    write_mask_submission(open_masks(out), decisions, settings.submission, out_ids)


if __name__ == "__main__":
    run(main, Settings)
