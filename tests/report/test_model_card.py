"""MODEL_CARD.md: its content for masks, objects and labels, the picture of failures, and escaping of user text."""

import os
import re
import shlex
from html import unescape

import numpy as np
import pytest
from helpers.masks import blobs, files_in, write_masks, write_packed
from helpers.runs import write_run, write_val_masks
from helpers.scripts import run_here

from utils.core.errors import UserError
from utils.core.files import read_json, write_json
from utils.report.model_card import write_model_card
from utils.runs.status import begun, write_status

HOSTILE = ["a|b", "`code`", "<script>alert(1)</script>", "*x*_y_", "![x](http://host/x)", "a\\|b\\", "x\n# y"]
HOSTILE += ["\u202etxt", "&lt;b&gt;", "日本|é"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Work in a folder with packed images and folds in `data`; return (folder, ids, probabilities, truth)."""
    monkeypatch.chdir(tmp_path)
    probabilities, truth = blobs(30)
    ids = [f"image{number}" for number in range(30)]
    write_packed("data", {"train": (ids, truth, (31, 31))})
    (tmp_path / "data" / "train_with_folds.csv").write_text("id,fold\na,0\nb,1\nc,2\n")
    return tmp_path, ids, probabilities, truth


def card_of(folder):
    return write_model_card(folder).read_text(encoding="utf-8")


def section(card, title):
    return re.search(rf"^## {title}\n\n(.*?)(?=^## |\Z)", card, re.DOTALL | re.MULTILINE)[1]


def rendered(card):
    """Return the card as HTML."""
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").enable("table").render(card)


def test_the_card_of_a_network_for_masks(home):
    place, ids, probabilities, _ = home
    run = write_run("experiments/unet_fold1", fold=1, arch="unet_resnet18", seed=7)
    path = write_val_masks(run, ids, probabilities, "data")
    assert run_here("optimize_threshold.py", "--masks_fn", path, cwd=place).returncode == 0
    stored, card = read_json(run / "threshold.json"), card_of(run)
    assert card.startswith("# `unet_fold1`\n")
    what = section(card, "Model")
    for words in (
        "`unet_resnet18`",
        "mask or background",
        "held-out fold: 1 (3 folds)",
        "3 of 3, best epoch 2",
        "0" * 16,
    ):
        assert words in what
    scores, cross = section(card, "Scores"), stored["cross_fitted"]
    assert f"| {cross['score']:.4f} | {cross['low']:.4f} to {cross['high']:.4f} |" in scores
    assert f"| `iout` | at threshold {stored['threshold']:.6g} (threshold.json) | {stored['score']:.4f} |" in scores
    assert "| `iout` | epoch 2, logged during training, at threshold 0.5 | 0.8000 |" in scores
    assert "| empty | 10 | " in scores
    assert "true mask non-empty | 0 | 20 |" in scores
    threshold = section(card, "Threshold")
    assert f"greater than {stored['threshold']:.6g} (threshold.json)" in threshold
    assert f"{stored['low']:.6g} to {stored['high']:.6g}" in threshold
    assert "predict_tta.py --data_dir data --snapshot experiments/unet_fold1\n" in section(card, "Usage")
    limits = section(card, "Limitations")
    assert "best epoch was chosen on it" in limits
    assert "nearly full (0)" in limits
    assert "30 s" in section(card, "Hardware and time")
    assert "| `loss` | `BCE` |" in section(card, "Settings")
    assert "## Problems" not in card
    assert os.fspath(place) not in card


def test_the_picture_shows_only_the_worst_images(home):
    from PIL import Image

    _, ids, _, truth = home
    images = np.repeat(np.arange(30, dtype=np.uint8)[:, None, None, None] * 8, 31, 1).repeat(31, 2)
    np.save("data/train_images.npy", images)
    run = write_run("experiments/a")
    exact = truth.astype(float)
    exact[4], exact[6, :9] = 0, 0.9  # one mask is missed, one is predicted on an empty image
    exact[4, 0, :3] = 0.9  # below the minimum area
    write_val_masks(run, ids, exact, "data")
    write_json(run / "threshold.json", {"threshold": 0.5, "min_area": 4})
    failures = section(card_of(run), "Failures")
    assert "(failures.png)" in failures
    assert re.findall(r"`(image\d+)`", failures) == ["image6", "image4"]  # image6 has more wrong pixels
    picture = np.asarray(Image.open(run / "failures.png"))
    assert picture.shape[2] == 3
    side = 31 * 6 + 4  # enlarged six times, plus a gap
    corners = [(32 + line * (side + 16), 4 + column * side) for line in (0, 1) for column in range(4)]
    tiles = [picture[top : top + 186, left : left + 186] for top, left in corners]
    assert [tiles[0].mean(), tiles[4].mean()] == [6 * 8, 4 * 8]
    assert [tiles[1].mean() / 255, tiles[5].mean() / 255] == pytest.approx([0, truth[4].mean()])
    assert [tiles[2].mean() / 255, tiles[6].mean()] == pytest.approx([0.9 * 9 / 31, 0.7], abs=0.02)
    assert tiles[7][0, 0].tolist() == [4 * 8] * 3
    red, green = tiles[3].reshape(-1, 3).max(0), tiles[7].reshape(-1, 3).max(0)
    assert red[0] > red[1]
    assert green[1] > green[0]


def test_no_picture_without_failures_and_a_small_one_for_large_images(home):
    _, ids, _, truth = home
    run = write_run("experiments/right")
    write_val_masks(run, ids, truth.astype(float), "data")
    assert "Failures" not in card_of(run)
    assert not (run / "failures.png").exists()
    rng, shape = np.random.default_rng(0), (300, 400)
    write_packed("large", {"train": (ids[:8], rng.random((8, *shape)) < 0.5, shape)})
    manifest = read_json("large/manifest.json")
    manifest["parts"]["train"]["arrays"]["images"]["shape"] = [8, *shape, 3]
    write_json("large/manifest.json", manifest)
    np.save("large/train_images.npy", rng.integers(0, 256, (8, *shape, 3), dtype=np.uint8))
    run = write_run("experiments/noise")
    write_val_masks(run, ids[:8], rng.random((8, *shape)), "large")
    assert 1 <= len(re.findall(r"`image\d`", section(card_of(run), "Failures"))) < 6
    assert 100_000 < (run / "failures.png").stat().st_size <= 1_000_000


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_breaks_out_of_its_cell(home, text):
    place, _, probabilities, truth = home
    ids = [f"{text}{number}" for number in range(30)]
    write_packed("data", {"train": (ids, truth, (31, 31))})
    run = write_run(place / "experiments" / text.replace("/", ""), arch=text, stages=[text, text], note=text)
    write_val_masks(run, ids, probabilities, "data")
    page = rendered(card_of(run))
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    assert page.count("<h1>") == 1
    assert page.count("<h2>") == 8
    assert page.count("<img") == 1
    assert "<script" not in page
    assert unescape(re.search(r"<h1>(?:<code>)?(.*?)(?:</code>)?</h1>", page)[1]) == plain.replace("/", "")
    for table in re.findall(r"<table>(.*?)</table>", page, re.DOTALL):
        rows = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in table.split("<tr>")[1:]]
        assert len({len(row) for row in rows}) == 1
    cells = [unescape(re.sub("<.*?>", "", cell)) for cell in re.findall(r"<td>(.*?)</td>", page, re.DOTALL)]
    assert plain in cells
    assert f"{plain} {plain}" in cells
    assert sum(cell.startswith(plain) and cell[-1].isdigit() for cell in cells) == 6


def test_the_command_quotes_the_name_of_the_run(home):
    run = write_run("experiments/my net; rm -rf")
    line = section(card_of(run), "Usage").strip().splitlines()[-1]
    assert shlex.split(line)[-2:] == ["--snapshot", "experiments/my net; rm -rf"]


def test_objects_labels_and_gates(home):
    cross = {"score": 0.5, "low": 0.4, "high": 0.6, "n_parts": 5}
    border = write_run("experiments/b", measure="objects", border="both")
    write_json(border / "objects.json", {"th": 0.375, "seed_th": 0.5, "min_area": 8, "cross_fitted": cross})
    card = card_of(border)
    assert "border between or around objects" in card
    assert "| `objects` | cross-fitted, with the parameters below | 0.5000 | 0.4000 to 0.6000 |" in card
    assert "| th | `0.375` |" in card
    assert "--objects" in section(card, "Usage")
    assert "could not be compared with the true masks" in card
    assert "gate_threshold" not in card
    write_json(border / "objects.json", {"th": 0.375, "gate_threshold": 0.25, "cross_fitted": cross})
    assert "| gate_threshold | `0.25` |" in card_of(border)
    pets = write_run("experiments/p", measure="accuracy", target="label", at_precision=0.95)
    write_json(pets / "labels.json", {"rule": "argmax", "cross_fitted": cross, "thresholds": {}})
    card = card_of(pets)
    assert "labels of an image" in card
    assert "| `accuracy` | epoch 2, logged during training | 0.8000 |" in card
    assert "predict.py --data_dir data --snapshot experiments/p\n" in card
    card = card_of(write_run("experiments/g", measure="auc", target=None, at_precision=0.95))
    assert "--gate experiments/g\n" in card
    assert "Failures" not in card


def test_folds_fitted_together(home):
    place, ids, probabilities, _ = home
    runs = [write_run(f"experiments/u_fold{fold}", fold=fold) for fold in (0, 1)]
    paths = [write_masks(runs[k] / "val_tta.npy", ids[k::2], probabilities[k::2], data_dir="data") for k in (0, 1)]
    assert run_here("optimize_threshold.py", "--masks_fn", *paths, cwd=place).returncode == 0
    cross = read_json(runs[1] / "threshold.json")["cross_fitted"]
    scores = section(card_of(runs[1]), "Scores")
    assert f"over 2 mask files, each at the threshold fitted on the others | {cross['score']:.4f} |" in scores
    assert "each of 5 parts of the fold" in scores
    assert "15 images of the fold, from the masks in `val_tta.npy`" in scores


def test_a_card_can_be_written_of_an_incomplete_run(home):
    run = write_run("experiments/a", finished=False)
    (run / "log.csv").write_text("broken")
    write_status(run, begun())
    card = card_of(run)
    assert "state: running" in card
    assert "Training had not finished" in card
    assert "log.csv: expected a table" in section(card, "Problems")
    write_json(run / "summary.json", {"machine": "cpu"})  # the card is written before the final status
    assert "Training had not finished" not in card_of(run)
    os.makedirs("experiments/empty")
    assert "state: unreadable" in card_of(run.parent / "empty")
    with pytest.raises(UserError, match="no such folder"):
        write_model_card(run.parent / "nowhere")
    assert not (run.parent / "nowhere").exists()


def test_a_failed_write_leaves_no_partial_file(home):
    _, ids, probabilities, _ = home
    run = write_run("experiments/a")
    write_val_masks(run, ids, probabilities, "data")
    (run / "MODEL_CARD.md").mkdir()
    with pytest.raises(OSError, match=r"MODEL_CARD\.md"):
        write_model_card(run)
    assert not [name for name in files_in(run) if name.endswith(".part")]
