"""A handmade folder of experiments of every kind, and a parser that reads their page without a browser."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from helpers.masks import blobs, write_packed
from helpers.runs import write_run, write_val_masks
from utils.core.files import write_json
from utils.runs.status import begun, ended, write_status

HOSTILE = "<img src=x onerror=alert(1)>"
CLOSING = "</script ><script>alert(2)</script >"
N_IMAGES = 40


def write_experiments(home):
    """Write `home`/data and `home`/experiments: two networks of two folds, four single runs, two folders without a run.

    unet scores better than wide. As text, solo10 sorts before solo9. All runs use the same images.

    Returns:
        The folder of experiments.
    """
    home = Path(home)
    good, truth = blobs(N_IMAGES, seed=3)
    ids = [f"image{number:02}" for number in range(N_IMAGES)]
    data = write_packed(home / "data", {"train": (ids, truth, truth.shape[1:])})
    images = np.random.default_rng(0).integers(0, 256, (N_IMAGES, *truth.shape[1:], 1), dtype=np.uint8)
    np.save(data / "train_images.npy", images)
    folds = [slice(0, N_IMAGES // 2), slice(N_IMAGES // 2, N_IMAGES)]
    for name, aside, scores in (("unet", 0, (0.6, 0.8, 0.7)), ("wide", 5, (0.3, 0.4, 0.5))):
        for fold, rows in enumerate(folds):
            shown = [score + 0.02 * fold for score in scores]
            folder = home / "experiments" / f"{name}_fold{fold}"
            write_run(folder, shown, fold=fold, arch=f"{name}_resnet", data_dir=str(data))
            write_val_masks(folder, ids[rows], np.roll(good[rows], aside, axis=2), data, shown)
    for name, n_epochs in (("solo9", 2), ("solo10", 11)):
        folder = home / "experiments" / name
        write_run(folder, [0.1 + 0.05 * n_epochs] * n_epochs, fold=0, arch=CLOSING, data_dir=str(data), seed=n_epochs)
    write_run(home / "experiments" / HOSTILE, (0.55,), fold=1, loss=HOSTILE, data_dir=str(data), finished=False)
    gate = home / "experiments" / "gate"
    write_run(gate, (0.9, 0.95), measure="auc", arch="resnet18", data_dir=str(data), finished=False)
    write_status(gate, ended(begun(), "failed", "the disk is full"))
    write_json(home / "experiments" / "foreign" / "notes.json", ["not a run"])
    (home / "experiments" / "half").mkdir()
    (home / "experiments" / "half" / "config.json").write_text('{"arch": "un')
    return home / "experiments"


class Page(HTMLParser):
    """A parsed page: the rows of its tables, its addresses, its tags and its security policy."""

    def __init__(self, page):
        super().__init__()
        self.text = page.decode() if isinstance(page, bytes) else page
        self.rows, self.addresses, self.tags, self.policy = [], [], [], ""
        self._cell = None
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append((tag, given))
        self.addresses += [given[name] for name in ("href", "src", "action", "data", "srcset") if given.get(name)]
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self._cell = []

    def handle_endtag(self, tag):
        if tag in ("td", "th") and self._cell is not None:
            self.rows[-1].append(" ".join("".join(self._cell).split()))
            self._cell = None

    def handle_data(self, data):
        if self._cell is not None:
            self._cell.append(data)

    def row(self, name):
        """Return column -> text of the row that begins with `name`."""
        columns = next(row for row in self.rows if row and row[0] == "run")
        (row,) = [row for row in self.rows if len(row) == len(columns) and row[0].startswith(name)]
        return dict(zip(columns, row, strict=True))

    def data(self):
        """Return the data that the page passes to its script."""
        return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', self.text, re.S)[1])

    def section(self, name):
        """Return the HTML of a run's section."""
        sections = re.findall(r'<section class="run".*?(?=<section class="run"|</main>)', self.text, re.S)
        (found,) = [section for section in sections if f">{name} <span" in section]
        return found
