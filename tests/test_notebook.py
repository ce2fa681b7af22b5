"""Test notebooks/first_look.ipynb: run all cells, and check the errors if something is missing."""

import base64
import contextlib
import io
import os
import re
import shutil
import sys
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from helpers.masks import files_in, score_at, write_masks, write_packed
from helpers.scripts import ROOT
from helpers.waiting import HANGS
from PIL import Image

from utils.core.errors import UserError
from utils.core.files import write_json
from utils.core.settings import from_flat
from utils.core.training_settings import TrainSettings
from utils.data.packed_data import open_packed
from utils.masks.mask_file import open_masks
from utils.runs.run_folder import snapshots_in

NOTEBOOK = ROOT / "notebooks" / "first_look.ipynb"
PICTURES = ("images", "coverage", "depths", "folds", "augmentation", "curves", "score", "predictions")
"""Ids of the cells that show a picture."""
GAP, LINE, SIDE = 4, 16, 128
"""Layout of the augmentations by utils/masks/drawing.labelled: gap, caption height and image side in pixels."""


@pytest.fixture(scope="module")
def predicted(survey, trained, tmp_path_factory):
    """Create a copy of the run with known predictions: most are the truth shifted right, one is exact, one is false."""
    run = tmp_path_factory.mktemp("predicted") / "unet_fold0"
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns("state.pt", "tensorboard"))
    packed, kept = open_packed(survey), snapshots_in(run)[0].val_masks
    ids = open_masks(kept).ids
    truths = np.stack([packed.masks[packed.ids.index(name)] for name in ids])
    found = np.roll(truths, 5, axis=2)
    empty = np.flatnonzero(~truths.any(axis=(1, 2)))
    found[empty[0], 20:60, 20:60] = 1
    found[empty[1], 10:12, 10:15] = 1  # less than the minimum area
    exact = np.flatnonzero(truths.any(axis=(1, 2)))[0]
    found[exact] = truths[exact]
    probabilities = 0.1 + 0.3 * found.astype(np.float32)  # all below .5
    write_masks(kept, ids, probabilities, data_dir=str(survey), part="train", fold=0)
    write_json(run / "threshold.json", {"threshold": 0.3, "min_area": 20})
    return SimpleNamespace(run=run, score=score_at(probabilities, truths, 0.3, min_area=20))


@pytest.fixture(scope="module")
def executed(survey, predicted, tmp_path_factory):
    """Run the notebook on the small survey and its run; return cell id -> outputs."""
    from nbclient import NotebookClient

    notebook, before = nbformat.read(NOTEBOOK, as_version=4), files_in(survey) + files_in(predicted.run)
    own = {name: str(tmp_path_factory.mktemp(name)) for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR")}
    environment = {**os.environ, **own, "STRATA_DATA": str(survey), "STRATA_RUN": str(predicted.run)}
    place = {"metadata": {"path": str(NOTEBOOK.parent)}}
    client = NotebookClient(notebook, timeout=HANGS, startup_timeout=HANGS, resources=place)
    client.execute(env=environment)
    assert files_in(survey) + files_in(predicted.run) == before
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def picture_of(outputs):
    (shown,) = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(shown))).convert("RGB"))


def printed(outputs):
    return "".join(output.text for output in outputs if output.output_type == "stream")


def colours(picture):
    """Return three masks: where a picture is tinted red, green and yellow."""
    red, green, blue = np.moveaxis(picture.astype(int), -1, 0)
    tinted = np.maximum(red, green) - blue > 30
    return tinted & (red - green > 30), tinted & (green - red > 30), tinted & (abs(red - green) <= 30)


def test_every_picture_has_content_and_nothing_warns(executed):
    assert {name for name, outputs in executed.items() if any("image/png" in o.get("data", {}) for o in outputs)} == {
        *PICTURES
    }
    for name in PICTURES:
        picture = picture_of(executed[name])
        assert min(picture.shape[:2]) > 150
        assert picture.std() > 5, name
    for name, outputs in executed.items():
        assert not [output for output in outputs if output.output_type == "error"], name
        assert "stderr" not in {output.get("name") for output in outputs}, printed(outputs)
        assert "arning" not in printed(outputs)


def test_it_reports_the_packed_data_and_the_score_of_the_run(executed, predicted):
    assert re.search(r"train images +24\b", printed(executed["set"]))
    assert "images uint8 (24, 101, 101, 1), masks uint8 (24, 101, 101)" in printed(executed["set"])
    assert 0.2 < predicted.score < 0.9
    assert f"8 images, iout {predicted.score:.4f}, iou " in printed(executed["score"])
    assert f"at 0.3 ({predicted.run}/threshold.json)" in printed(executed["score"])


def test_masks_are_drawn_on_their_images(executed):
    """Only the column of overlays is tinted, in green; rows go from the smallest mask to the largest."""
    picture = picture_of(executed["images"])
    third = picture.shape[1] // 3
    assert not np.any(colours(picture[:, : 2 * third]))
    red, green, yellow = colours(picture[:, 2 * third :])
    assert not red.any()
    assert not yellow.any()
    shares = [rows.mean() for rows in np.array_split(green, 5)]
    assert shares == sorted(shares)
    assert shares[0] == 0 < 0.3 < shares[-1]


def test_predictions_are_drawn_on_images_from_the_worst_to_the_best(executed):
    picture = picture_of(executed["predictions"])
    quarter = picture.shape[1] // 4
    assert not np.any(colours(picture[:, : 3 * quarter]))
    overlays = np.array_split(picture[:, 3 * quarter :], round(picture.shape[0] / (2 * 101 + GAP + LINE)))
    shares = [[which.mean() for which in colours(overlay)] for overlay in overlays]
    red, green, yellow = shares[0]  # false
    assert red > 0.1
    assert green == yellow == 0
    red, green, yellow = shares[-1]  # exact
    assert red == green == 0
    assert yellow > 0.01
    assert all(min(of_one) > 0 for of_one in shares[1:-1])  # shifted


def test_the_draws_of_an_augmentation_differ(executed):
    picture = picture_of(executed["augmentation"])
    tops = range(2 * LINE, picture.shape[0] - SIDE, SIDE + GAP + LINE)
    rows = [
        [picture[top : top + SIDE, left : left + SIDE] for left in range(GAP, 6 * (SIDE + GAP), SIDE + GAP)]
        for top in tops
    ]
    assert len(rows) == 10  # train_128_v1, _v2, _v3, _d4, then affine_128, scaled_128 and stained_128, each with _d4
    for row in rows:
        assert np.array_equal(row[0], rows[0][0])
        assert len({tile.tobytes() for tile in row}) > 3
        assert all(colours(tile)[1].any() for tile in row)


def cells():
    return {cell.id: cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells}


def run_cells(*names, **variables):
    """Run some cells in this process; return what they print and their variables."""
    place, out = {"DATA": "demo", "RUN": "experiments/demo_fold0", **variables}, io.StringIO()
    with contextlib.redirect_stdout(out):
        for name in names:
            exec(cells()[name].source, place)
    return SimpleNamespace(stdout=out.getvalue(), **{name: place[name] for name in ("DATA", "RUN")})


def test_the_committed_notebook_has_no_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert NOTEBOOK.stat().st_size < 100_000
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in notebook.cells:
        assert re.fullmatch(r"[a-z-]+", cell.id)  # words, not the random ids of an editor
        bare = cell.cell_type == "markdown" or (cell.outputs == [] and cell.execution_count is None)
        assert bare, f"the notebook has outputs; run: jupyter nbconvert --clear-output --inplace {NOTEBOOK}"
        assert cell.metadata == {}


def test_parameters_come_from_the_environment_or_are_the_demo(monkeypatch):
    for name in ("STRATA_DATA", "STRATA_RUN"):
        monkeypatch.delenv(name, raising=False)
    with contextlib.chdir(NOTEBOOK.parent):
        alone = run_cells("parameters")
        assert os.getcwd() == str(ROOT)
    assert (alone.DATA, alone.RUN) == ("demo", "experiments/demo_fold0")
    demo = (ROOT / "recipes" / "demo.sh").read_text()
    assert f"data=${{1:-{alone.DATA}}} run=${{2:-{alone.RUN}}}" in demo
    monkeypatch.setenv("STRATA_DATA", "salt")
    monkeypatch.setenv("STRATA_RUN", "experiments/a_fold1")
    with contextlib.chdir(ROOT):
        given = run_cells("parameters")
    assert (given.DATA, given.RUN) == ("salt", "experiments/a_fold1")


def test_missing_files_are_named(tmp_path, survey):
    with pytest.raises(UserError, match="no such folder"):
        run_cells("set", DATA=str(tmp_path / "nowhere"))
    bare = write_packed(tmp_path / "bare", {"train": (["a", "b"], None, (31, 31))})
    with pytest.raises(UserError, match="without masks"):
        run_cells("set", DATA=str(bare))
    with pytest.raises(UserError, match=r"RUN .*nowhere: no such file or folder"):
        run_cells("curves", DATA=str(survey), RUN=str(tmp_path / "nowhere"))


def test_the_last_cell_trains_if_it_is_switched_on(monkeypatch):
    source, asked = cells()["train"].source, []
    assert source.startswith("TRAIN = False\n")
    monkeypatch.setitem(sys.modules, "train", SimpleNamespace(train=lambda flags: asked.append(flags) or {"done": 1}))
    exec(source, {"DATA": "salt"})
    assert asked == []
    exec(source.replace("TRAIN = False", "TRAIN = True"), {"DATA": "salt"})
    (flags,) = asked
    settings = from_flat(TrainSettings, flags)
    assert settings.data.data_dir == "salt"
    assert settings.run.experiment_dir.startswith("experiments/")
