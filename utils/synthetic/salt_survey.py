"""A synthetic salt survey in the layout of Kaggle's TGS salt competition.

The survey has train/images, train/masks, test/images, train.csv, depths.csv and sample_submission.csv, as in the
competition. It also has truth.csv with the masks of the test images, which the competition does not publish.
utils/synthetic/seismic.py describes and draws the content of the images.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.core.errors import UsageError
from utils.core.progress import progress_bar
from utils.core.tables import write_table
from utils.data.rle import encode
from utils.scoring.mask_metrics import scores_from_counts
from utils.synthetic.demo_files import check_folder, write_picture
from utils.synthetic.seismic import SIZE, Section, blank_section, section

SHARE_WITHOUT_SALT = 0.39  # 1,562 of the competition's 4,000 training images
SHARE_BLANK = 0.02  # 80 of the 4,000: a single grey value and no salt; they are part of SHARE_WITHOUT_SALT
KINDS = ("salt", "sediments", "blank")


@dataclass(frozen=True)
class Written:
    """Ids, depths, masks and grey values of the images written for one part, in order."""

    ids: list[str]
    depths: list[int]
    """Metres, 50 to 950."""
    run_lengths: list[str]
    """Run-length encoded masks; "" for an image without salt."""
    greys: np.ndarray
    """(N, 256) int64: number of pixels of each grey value."""
    salt_greys: np.ndarray
    """(N, 256) int64: number of pixels of each grey value inside the mask."""


def write_salt(out_dir: Path, n_train: int, n_test: int, seed: int, size: int | None) -> Iterator[str]:
    """Draw and write the survey, and yield lines for the user.

    The lines describe the images, and give the scores of two baselines: empty masks and a threshold on the grey value.

    Raises:
        UsageError: the folder contains other files, or `size` is given although these images have a fixed size.
    """
    if size is not None:
        raise UsageError(f"--size {size}: images of --kind salt are always {SIZE}x{SIZE}; remove --size")
    plan = draw_plan(n_train, n_test, seed)
    check_folder(out_dir, (f"{part}/images/{name}.png" for part, names in plan.items() for name in names))
    train, test = (write_part(out_dir, part, kinds, seed) for part, kinds in plan.items())
    write_table(out_dir / "depths.csv", {"id": train.ids + test.ids, "z": train.depths + test.depths})
    write_table(out_dir / "sample_submission.csv", {"id": test.ids, "rle_mask": ["1 1"] * len(test.ids)})
    write_table(out_dir / "truth.csv", {"id": test.ids, "rle_mask": test.run_lengths})
    write_table(out_dir / "train.csv", {"id": train.ids, "rle_mask": train.run_lengths})
    yield f"train/images, train/masks, train.csv: {summary(train)}"
    yield f"test/images, truth.csv: {summary(test)}"
    yield f"written to {out_dir}; next: python utils/stack_and_save.py --data_dir {out_dir}"
    all_empty = np.mean(train.salt_greys.sum(axis=1) == 0)
    rule, score = best_threshold(train.greys, train.salt_greys)
    yield f"all empty: {all_empty:.3f} · best single intensity threshold ({rule}): {score:.3f}"


def draw_plan(n_train: int, n_test: int, seed: int) -> dict[str, dict[str, str]]:
    """Draw the ids of the images and what each image shows.

    Each part has the competition's shares of the three kinds, rounded. The ids depend on the numbers of images as well
    as on the seed.

    Returns:
        part ("train", "test") -> id (ten hexadecimal digits, unique) -> kind ("salt", "sediments" or "blank").
    """
    rng = np.random.default_rng([seed, n_train, n_test])
    ids = [f"{number:010x}" for number in rng.choice(16**10, size=n_train + n_test, replace=False)]
    plan = {}
    for part, names in (("train", ids[:n_train]), ("test", ids[n_train:])):
        n_blank, n_without = round(SHARE_BLANK * len(names)), round(SHARE_WITHOUT_SALT * len(names))
        numbers = (len(names) - n_without, n_without - n_blank, n_blank)
        plan[part] = dict(zip(names, rng.permutation(np.repeat(KINDS, numbers)).tolist(), strict=True))
    return plan


def draw_section(kind: str, rng: np.random.Generator) -> tuple[Section, int]:
    """Draw an image with its mask, and its depth.

    Returns:
        the section, and its depth in metres: an integer from 50 to 950, mostly around 510 as in the competition.
    """
    depth = int(np.clip(rng.normal(510, 210), 50, 950))
    return blank_section(rng) if kind == "blank" else section(rng, depth, with_salt=kind == "salt"), depth


def write_part(out_dir: Path, part: str, kinds: Mapping[str, str], seed: int) -> Written:
    """Draw and write the images of one part (id -> kind), and for "train" also the masks."""
    depths, run_lengths, greys, salt_greys = [], [], [], []
    for name, kind in progress_bar(kinds.items(), part, "image"):
        drawn, depth = draw_section(kind, np.random.default_rng([seed, int(name, 16)]))
        write_picture(out_dir / part / "images" / f"{name}.png", np.repeat(drawn.image[..., None], 3, axis=2))
        if part == "train":
            write_picture(out_dir / part / "masks" / f"{name}.png", drawn.mask * np.uint16(65_535))
        depths.append(depth)
        run_lengths.append(encode(drawn.mask))
        greys.append(np.bincount(drawn.image.ravel(), minlength=256))
        salt_greys.append(np.bincount(drawn.image[drawn.mask == 1], minlength=256))
    return Written(list(kinds), depths, run_lengths, np.stack(greys), np.stack(salt_greys))


def summary(written: Written) -> str:
    """Return a line with the number of images, how many have no salt, and the coverage of the others."""
    coverage = written.salt_greys.sum(axis=1) / written.greys.sum(axis=1)
    n_empty = int(np.count_nonzero(coverage == 0))
    text = f"{len(coverage)} images, {n_empty} ({n_empty / len(coverage):.1%}) without salt"
    if n_empty == len(coverage):
        return text
    low, middle, high = np.percentile(coverage[coverage > 0], (0, 50, 100))
    return f"{text}; in the others salt covers {low:.0%} to {high:.0%}, median {middle:.0%}"


def best_threshold(greys: np.ndarray, salt_greys: np.ndarray) -> tuple[str, float]:
    """Search for the grey-value threshold whose masks score best.

    Masks are the pixels of at most t, or of at least t, with the same t for all images.

    Args:
        greys: (N, 256) integers, the number of pixels of each grey value.
        salt_greys: (N, 256) integers, the number of pixels of each grey value inside the true masks.

    Returns:
        (rule, score): the rule such as "<= 13", and its score by the competition's metric, 0..1.
    """
    truth = salt_greys.sum(axis=1, keepdims=True)
    best = ("", -1.0)
    for sign, step in (("<=", 1), (">=", -1)):
        inside, predicted = (counts[:, ::step].cumsum(axis=1)[:, ::step] for counts in (salt_greys, greys))
        scores = scores_from_counts(inside, predicted, truth).mean(axis=0) / 10
        if (score := float(scores.max())) > best[1]:
            best = (f"{sign} {scores.argmax()}", score)
    return best
