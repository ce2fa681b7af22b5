"""The report page as a file: its content, no external requests, escaping of names, its size, and its charts."""

import base64
import dataclasses
import hashlib
import io
import re
from html import escape
from pathlib import Path

import numpy as np
import pytest
from helpers.pages import CLOSING, HOSTILE, N_IMAGES, Page, write_experiments
from helpers.scripts import assert_refused, run_here
from PIL import Image

from utils.report import pictures
from utils.report.charts import Line, chart, thinned, tick_label, ticks
from utils.report.page import Maker, build_page, link
from utils.report.pictures import BUDGET, Pictures, draw
from utils.report.table import MOST_SCORES, encoded_scores

ROOM = 20_000_000


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    return write_experiments(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def found(experiments):
    return Maker([str(experiments)]).read()


@pytest.fixture(scope="module")
def page(found, experiments):
    return Page(build_page(found, Pictures(), experiments.parent))


def run_of(found, name):
    return next(run for group in found.groups for run in group.runs if run.name == name)


def test_a_row_shows_the_numbers_to_compare(page, found):
    unet = next(group for group in found.groups if group.name == "unet")
    wide = next(group for group in found.groups if group.name == "wide")
    row = page.row("unet 2 runs")
    assert (row["state"], row["fold"], row["best score"]) == ("finished 2", "0, 1", "0.810 ± 0.014 iout")
    assert row["cross-fitted"] == f"{unet.cross.score:.3f} {unet.cross.low:.3f} to {unet.cross.high:.3f}"
    assert row["vs. best"] == "best"
    assert (row["epochs"], row["time"], row["images/s"], row["arch"]) == ("3", "1 min", "50", "unet_resnet")
    gap = wide.difference
    assert gap.high < 0
    expected = f"{gap.mean:+.3f} {gap.low:+.3f} to {gap.high:+.3f}".replace("-", "−")
    assert page.row("wide 2 runs")["vs. best"] == expected
    assert (page.row("unet_fold1")["fold"], page.row("unet_fold1")["best score"]) == ("1", "0.820")
    gate = page.row("gate")
    assert (gate["run"], gate["state"], gate["best score"]) == ("gate the disk is full", "failed", "0.950 auc")
    assert (gate["cross-fitted"], gate["threshold"]) == ("", "")
    assert page.row("foreign")["state"] == page.row("half")["state"] == "unreadable"
    assert "data_dir" not in page.row("unet_fold1")  # it is the same in all runs
    assert "<dt>data_dir</dt>" in page.text[: page.text.index('class="run"')]


def test_a_section_shows_a_run(page, found):
    section, judged = page.section("unet_fold0"), run_of(found, "unet_fold0").judged
    for title in ("Loss", "Scores", "Learning rate", "Score against threshold", "Reliability diagram"):
        assert f"<figcaption>{title}</figcaption>" in section
    assert "train_loss from 1 to 1, minimum 1, maximum 1; val_loss from 1.4 to 1.3, minimum 1.2" in section
    assert f"highest {judged.best.score:.3f} for thresholds from {judged.best.low:.3g}" in section
    cells = [re.findall(r"\d+", cell)[-1] for cell in re.findall(r'<td class="n(?: right)?">(\d+)</td>', section)[-4:]]
    assert cells == judged.empties.ravel().astype(str).tolist()
    for share in judged.shares:
        assert re.search(rf'scope="row">{share.name}.*?<td class="n">{share.n_images}</td>', section, re.S)
    for title, rows in judged.galleries.items():
        shown = re.search(rf"<h3>{title}</h3>(.*?)</section>", section, re.S)
        assert re.findall("<b>(.*?)</b>", shown[1] if shown else "") == [row.name for row in rows]
    assert "config.json: expected JSON" in page.section("half")
    assert "<svg" not in page.section("half")


def test_restarts_are_drawn_and_a_single_epoch_is_a_dot(found, experiments):
    run = run_of(found, "solo10")
    again = dataclasses.replace(run, log={**run.log, "cycle": [1] * 4 + [2] * 4 + [3] * 3})
    group = dataclasses.replace(found.groups[0], runs=[again])
    section = Page(build_page(dataclasses.replace(found, groups=[group]), Pictures(), None)).section("solo10")
    assert section.count('class="restart"') == 3 * 2  # charts of loss, scores and learning rate
    assert "; 2 restarts" in section
    assert "restart" not in Page(build_page(found, Pictures(0), None)).section("solo10")
    assert '<circle class="dot s0"' in Page(build_page(found, Pictures(0), None)).section(escape(HOSTILE))


def test_nothing_leaves_the_page_and_only_its_own_script_runs(page):
    assert not [text for text in page.addresses if not re.match(r"(#|\./|data:image/webp;base64,|data:,$)", text)]
    assert not re.search(r"url\(|@import|https?:", page.text)
    assert not [given for _, given in page.tags if any(name.startswith("on") or name == "style" for name in given)]
    rules = dict(rule.split(" ", 1) for rule in page.policy.split("; "))
    assert rules["default-src"] == "'none'"
    for tag, rule in (("style", "style-src"), ('script type="module"', "script-src")):
        (inside,) = re.findall(rf"<{tag}>(.*?)</", page.text, re.S)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_names_and_flags_are_text(page):
    assert HOSTILE not in page.text
    assert page.text.lower().count("</script") == 2  # the data and the script
    assert escape(HOSTILE) in page.text
    assert [given["alt"] for tag, given in page.tags if tag == "img"]  # no injected <img>: every one has an alt text
    assert HOSTILE in [group["name"] for group in page.data()["groups"]]
    assert any(f"arch={CLOSING}" in group["text"] for group in page.data()["groups"])


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("/a/runs/x", "./runs/x/"),
        ("/a/runs/50% of #1?", "./runs/50%25%20of%20%231%3F/"),
        ("/a/javascript:alert(1)", "./javascript%3Aalert%281%29/"),
        ("/b/x", "./../b/x/"),
        ("/a/\udcff", "./%FF/"),
    ],
)
def test_the_address_of_a_run_folder(path, address):
    assert link(Path(path), Path("/a")) == address


def test_a_name_that_is_not_valid_utf_8_is_shown(found):
    run = dataclasses.replace(found.groups[0].runs[0], name="a\udcffb", path=Path("a\udcffb"))
    group = dataclasses.replace(found.groups[0], name="a\udcffb", runs=[run])
    assert b">a?b<" in build_page(dataclasses.replace(found, groups=[group]), Pictures(0), ".")


def test_scores_of_images_are_encoded_in_the_page(page, found):
    given = {group["name"]: group for group in page.data()["groups"]}
    order = sorted({name for group in found.groups for name in group.cross_scores})
    assert len(order) == N_IMAGES
    for group in found.groups:
        codes = re.findall("..", given[group.name]["scores"])
        scores = {name: int(code, 36) / 1000 for name, code in zip(order, codes, strict=False) if code != "--"}
        assert scores == {name: round(score, 3) for name, score in group.cross_scores.items()}
    assert given["unet"]["data"] == given["wide"]["data"]
    assert given["foreign"]["data"] is None
    some = dataclasses.replace(found.groups[0], cross_scores={order[0]: 0.0369, order[2]: 1.0})  # 37 and 1000 per mille
    assert encoded_scores([found.groups[0], some])[1]["scores"] == "11--rs" + "--" * (N_IMAGES - 3)


def test_panels_are_image_truth_probability_and_overlay(found):
    judged = run_of(found, "wide_fold1").judged
    judged = dataclasses.replace(judged, threshold=0.4, min_area=0)
    row = next(row for row in judged.galleries["Worst"] if 0.1 < row.iou < 0.9)
    strip, place = draw(judged, row), judged.place[row.name]
    opened = [Image.open(io.BytesIO(base64.b64decode(text.split(",")[1]))) for text in strip.panels]
    image, truth, probability, overlay = (np.asarray(one.convert("RGB")).astype(int) for one in opened)
    assert strip.size == (31, 31)
    true = np.asarray(judged.packed.masks[place]) != 0
    assert np.array_equal(truth[..., 0], 255 * true)
    assert np.abs(image[..., 0] - judged.packed.images[place][..., 0]).mean() < 30
    assert np.abs(probability[..., 0] - 255 * judged.masks.array[row.row].astype(float)).mean() < 12
    missed = true & ~(judged.masks.array[row.row] > 0.4)
    greener = (overlay[..., 1] - overlay[..., 0])[missed].mean(), (overlay[..., 1] - overlay[..., 0])[~true].mean()
    assert greener[0] > 40 + greener[1]
    nothing = draw(dataclasses.replace(judged, min_area=10**6), row).panels[3]
    assert nothing != strip.panels[3]


def test_a_large_picture_is_shrunk(found):
    judged = run_of(found, "unet_fold0").judged
    masks = dataclasses.replace(judged.masks, planes=np.zeros((20, 400, 200), np.float16))
    packed = dataclasses.replace(
        judged.packed, images=np.zeros((40, 400, 200, 3), np.uint8), masks=np.zeros((40, 400, 200))
    )
    strip = draw(dataclasses.replace(judged, masks=masks, packed=packed), judged.galleries["Best"][0])
    assert strip.size == (80, 160)
    assert Image.open(io.BytesIO(base64.b64decode(strip.panels[0].split(",")[1]))).size == (80, 160)


def test_each_run_has_an_equal_share_of_the_picture_budget(found):
    run, budget = run_of(found, "unet_fold0"), 120_000
    runs = [dataclasses.replace(run, path=Path(f"run{number}")) for number in range(6)]
    drawn = Pictures(budget).galleries(runs)
    assert len(drawn) == 6
    assert len({str(strips) for strips in drawn.values()}) == 1
    bytes_of = sum(len(text) for run in drawn.values() for rows in run.values() for one in rows for text in one.panels)
    assert budget / 2 < bytes_of <= budget
    sizes = [len(rows) for title, rows in drawn[Path("run0")].items() if run.judged.galleries[title]]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


def test_pictures_are_drawn_again_only_after_the_run_is_judged_again(found, monkeypatch):
    runs, kept, times = [run_of(found, "unet_fold0")], Pictures(), []
    monkeypatch.setattr(pictures, "draw", lambda judged, row: times.append(row) or draw(judged, row))
    first = kept.galleries(runs)
    drawn = len(times)
    assert drawn == len({row.row for rows in runs[0].judged.galleries.values() for row in rows})
    assert kept.galleries(runs) == first
    assert len(times) == drawn
    kept.galleries([dataclasses.replace(runs[0], judged=dataclasses.replace(runs[0].judged, threshold=0.1))])
    assert len(times) == 2 * drawn


def test_200_long_runs_stay_below_20_MB(found):
    run = run_of(found, "unet_fold0")
    noise = np.random.default_rng(0).random((5, 1000))
    names = ("train_loss", "val_loss", "iou", "iout", "lr")
    log = {"epoch": list(range(1, 1001)), **{name: row.tolist() for name, row in zip(names, noise, strict=True)}}
    group = dataclasses.replace(found.groups[0], cross_scores={})
    runs = [dataclasses.replace(run, log=log, path=Path(f"run{number}")) for number in range(8)]
    sizes = [
        len(build_page(dataclasses.replace(found, groups=[dataclasses.replace(group, runs=some)]), Pictures(0), "."))
        for some in (runs[:2], runs)
    ]
    captions = BUDGET // 2000 * 400  # a strip has about 4,000 bytes of pictures and 500 of text
    assert (sizes[1] - sizes[0]) / 6 * 200 + sizes[0] + BUDGET + captions + 2 * MOST_SCORES < ROOM


def test_ticks_are_round_and_few():
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert ticks(1, 50) == [10, 20, 30, 40, 50]
    assert ticks(-0.001, 0.0033) == pytest.approx([-0.001, 0, 0.001, 0.002, 0.003])
    assert [tick_label(value, 0.2) for value in (0.0, 0.2, -0.4)] == ["0", "0.2", "−0.4"]
    assert tick_label(2e-05, 1e-05) == "2e−5"


def test_a_thinned_curve_keeps_its_peaks():
    y = np.sin(np.arange(5000) / 100)
    y[1234], y[4321], y[777] = 9, -9, np.nan
    x, kept = thinned(np.arange(5000), y)
    assert len(x) <= 400
    assert np.all(np.diff(x) > 0)
    assert {9.0, -9.0} <= set(kept)
    assert kept[list(x).index(1234)] == 9


def test_step_functions_and_gaps_are_drawn():
    x, y = np.array([0.0, 0.5]), np.array([0.0, 1.0])
    (steps,) = re.findall(
        'class="line s0" d="(.*?)"/></svg>', chart("a", "", "", [Line("", x, y, True)], "", (0, 1), (0, 1))
    )
    assert steps == "M46 180h151v-152h151"
    gap = chart("a", "", "", [Line("", np.arange(4.0), np.array([0, 1, np.nan, 1]))], "", (0, 3), (0, 1))
    assert re.search('d="M46 180l100.7-152M348 28"', gap)
    assert "<title id" in chart("a", "<b>", "", [Line("<i>", x, y)], "")
    assert "<b>" not in chart("a", "<b>", "<b>", [Line("<b>", x, y)], "<b>")


def test_the_script_writes_a_page_and_overwrites_only_report_pages(experiments, monkeypatch):
    home = experiments.parent
    done = run_here("report.py", "experiments/unet_fold0", "experiments/half", "--out", "pages/two.html", cwd=home)
    assert done.returncode == 0, done.stderr
    size = (home / "pages" / "two.html").stat().st_size
    expected = f"pages/two.html: 2 runs in 2 rows (1 unreadable; the page shows why), {size / 1e6:.1f} MB"
    assert done.stdout.strip() == expected
    text = (home / "pages" / "two.html").read_text()
    assert 'href="./../experiments/unet_fold0/"' in text
    assert run_here("report.py", "experiments/half", "--out", "pages/two.html", cwd=home).returncode == 0
    assert (home / "pages" / "two.html").stat().st_size != size
    (home / "notes.html").write_text("mine")
    refused = run_here("report.py", "experiments", "--out", "notes.html", cwd=home)
    assert_refused(refused, 2, "--out notes.html", "not a report page")
    assert (home / "notes.html").read_text() == "mine"
    assert_refused(
        run_here("report.py", "experiments", "--out", "pages", cwd=home), 2, "found a folder", "pages/report.html"
    )
    assert_refused(run_here("report.py", "exp", cwd=home), 1, "exp: no such file or folder")
    assert_refused(run_here("report.py", "experiments", "--port", "1", cwd=home), 2, "--port 1", "--watch")
    assert_refused(run_here("report.py", "experiments", "--watch", "--out", "a.html", cwd=home), 2, "--out", "--watch")
    assert sorted(path.name for path in (home / "pages").iterdir()) == ["two.html"]
