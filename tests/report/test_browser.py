"""The report page in a real Chromium, opened from disk as a user opens it."""

import dataclasses
import shutil
import threading

import pytest
from helpers.browser import CONTRASTS, go_to_run, is_dark, is_painted, names
from helpers.pages import HOSTILE, write_experiments
from helpers.runs import write_run
from helpers.waiting import HANGS

from utils.report.page import Maker, build_page
from utils.report.pictures import Pictures
from utils.report.serve import open_server, shown
from utils.scoring.bootstrap import difference

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    return write_experiments(tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def found(experiments):
    return Maker([str(experiments)]).read()


@pytest.fixture(scope="module")
def address(experiments):
    out = experiments.parent / "report.html"
    Maker([str(experiments)]).write(out)
    return out.as_uri()


@pytest.fixture(scope="module")
def chromium():
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium is installed (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"], timeout=HANGS * 1000)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium, address):
    """Return a function that opens the page; check at the end that it had no errors and no external requests."""
    said, asked, contexts = [], [], []

    def opened(where=address, **options):
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(HANGS * 1000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.append((request.url, where)))
        page.goto(where)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url, where in asked if url.split("#")[0] != where and not url.startswith("data:")] == []


def test_rows_are_sorted_by_number_with_mouse_and_keyboard(open_page):
    page = open_page()
    first = names(page)
    time = page.get_by_role("button", name="time", exact=True)
    head = page.locator("th", has=time)
    time.click()
    assert head.get_attribute("aria-sort") == "ascending"
    order = names(page)  # 10 s, 20 s twice, 60 s twice, 110 s; sorted as text, 110 would come before 20
    assert (order[0], set(order[1:3]), set(order[3:5]), order[5]) == (
        HOSTILE,
        {"solo9", "gate"},
        {"unet", "wide"},
        "solo10",
    )
    assert set(order[6:]) == {"foreign", "half"}  # they have no time, so they come last
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    again = names(page)
    assert (again[0], again[5], set(again[6:])) == ("solo10", HOSTILE, {"foreign", "half"})
    page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "none"
    assert names(page) == first
    page.get_by_role("button", name="run", exact=True).focus()
    page.keyboard.press("Enter")
    by_name = names(page)
    assert by_name.index("solo9") + 1 == by_name.index("solo10")
    page.get_by_role("button", name="cross-fitted").click()
    assert names(page)[:2] == ["unet", "wide"]
    assert page.locator("th[aria-sort=descending]").count() == 1
    assert page.locator("#shown").inner_text() == "8 of 8 rows shown, sorted by cross-fitted, descending"


def test_rows_are_filtered_by_words_and_state(open_page):
    page = open_page()
    box, line = page.get_by_label("Filter"), page.locator("#shown")
    assert line.inner_text() == "8 of 8 rows shown"
    box.fill("arch=wide")
    assert (names(page), line.inner_text()) == (["wide"], "1 of 8 rows shown")
    box.fill("SOLO seed=11")
    assert names(page) == ["solo10"]
    box.fill("unet absent")
    assert (names(page), line.inner_text()) == ([], "0 of 8 rows shown")
    box.fill("")
    page.get_by_label("State").select_option("failed")
    assert names(page) == ["gate"]
    page.get_by_label("State").select_option("finished")
    assert sorted(names(page)) == ["solo10", "solo9", "unet", "wide"]
    assert page.get_by_label("State").locator("option").all_inner_texts()[1:] == [
        "finished (6)",
        "interrupted (1)",
        "failed (1)",
        "unreadable (2)",
    ]


def test_a_run_opens_shows_its_pictures_and_leads_back(open_page):
    page = open_page()
    unfold = page.get_by_role("button", name="unet")
    assert not page.get_by_role("link", name="unet_fold1").is_visible()
    unfold.focus()
    page.keyboard.press("Enter")
    assert unfold.get_attribute("aria-expanded") == "true"
    page.get_by_role("link", name="unet_fold1").focus()
    page.keyboard.press("Enter")
    heading = page.get_by_role("heading", name="unet_fold1")
    heading.wait_for()
    page.wait_for_function(
        "document.title === 'unet_fold1, experiments'"
    )  # set by the script after the section is shown
    assert page.evaluate("document.activeElement.textContent").startswith("unet_fold1")
    assert not page.locator("#runs").is_visible()
    assert page.locator(".run:visible").count() == 1
    for chart in page.locator(".run:target .charts figure > svg").all():
        assert is_painted(chart.screenshot())
    strip = page.locator(".run:target .strip").first
    strip.scroll_into_view_if_needed()
    page.wait_for_function("[...document.querySelector('.run:target .strip').children].every(i => i.naturalWidth > 0)")
    assert is_painted(strip.locator("img").nth(0).screenshot())
    assert is_painted(strip.locator("img").nth(2).screenshot())
    strip.focus()
    page.keyboard.press("Enter")
    large = page.get_by_role("dialog")
    name = large.locator("#large-name").inner_text()
    assert large.locator("figcaption").all_inner_texts() == ["image", "truth", "probability", "overlay"]
    page.wait_for_function("[...document.querySelectorAll('#large img')].every(i => i.naturalWidth > 0)")
    assert large.locator("img").first.evaluate("e => getComputedStyle(e).imageRendering") == "pixelated"
    assert large.locator("img").first.bounding_box()["width"] > 2 * strip.locator("img").first.bounding_box()["width"]
    page.keyboard.press("ArrowRight")
    assert large.locator("#large-name").inner_text() != name
    page.keyboard.press("Escape")
    assert not large.is_visible()
    page.get_by_role("link", name="All runs").click()
    page.locator("#runs").wait_for()
    page.wait_for_function("document.activeElement.textContent === 'unet_fold1'")


def test_is_b_better_than_a(open_page, found):
    page = open_page()
    scores = {group.name: group.cross_scores for group in found.groups}
    verdict = page.locator("#verdict")
    assert [page.locator(f"#{id} option:checked").inner_text() for id in "ab"] == ["wide", "unet"]
    for a, b, answer in (("wide", "unet", "Yes, B is better: +"), ("unet", "wide", "No, B is worse: −")):
        page.locator("#a").select_option(label=a)
        page.locator("#b").select_option(label=b)
        expected, numbers = difference(scores[a], scores[b]), verdict.evaluate("e => ({...e.dataset})")
        assert verdict.inner_text().startswith(answer)
        assert (int(numbers["n"]), float(numbers["mean"])) == (
            expected.n_images,
            pytest.approx(expected.mean, abs=1e-9),
        )
        reach = expected.high - expected.low
        for end in ("low", "high"):
            assert float(numbers[end]) == pytest.approx(getattr(expected, end), abs=0.08 * reach)
        assert f"{expected.n_images} images" in verdict.inner_text()
    page.locator("#b").select_option(label="unet")
    assert verdict.inner_text() == "They cannot be compared: choose two different rows."
    page.locator("#b").select_option(label="gate")
    assert verdict.inner_text() == "They cannot be compared: gate has no scores of individual images."


def test_the_reason_why_rows_cannot_be_compared_is_shown(open_page, found, tmp_path):
    unet, wide = found.groups[:2]
    changes = {"elsewhere": {"digest": "other"}, "unknown": {"digest": None}, "objects": {"measure": "objects"}}
    runs = {name: [dataclasses.replace(run, **change) for run in wide.runs] for name, change in changes.items()}
    others = [dataclasses.replace(wide, name=name, runs=some) for name, some in runs.items()]
    alone = dataclasses.replace(wide, name="alone", cross_scores={"image99": 1.0})
    none = dataclasses.replace(others[2], name="none", cross_scores={})
    groups = [unet, *others, none, alone]
    out = tmp_path / "page.html"
    out.write_bytes(build_page(dataclasses.replace(found, groups=groups), Pictures(0), tmp_path))
    page = open_page(out.as_uri())
    for a, b, reason in (
        ("unet", "elsewhere", "they were trained on different images."),
        ("unknown", "unet", "without the packed images of both, it is unknown whether the images are the same."),
        ("unet", "objects", "one is ranked by iout, the other by objects."),
        (
            "none",
            "objects",
            "none has no scores of individual images; run optimize_threshold.py --objective objects on its "
            "validation files.",
        ),
        ("alone", "unet", "no image was predicted by both."),
    ):
        page.locator("#a").select_option(label=a)
        page.locator("#b").select_option(label=b)
        assert page.locator("#verdict").inner_text() == f"They cannot be compared: {reason}"


def test_a_hostile_name_is_shown_as_text(open_page):
    page = open_page()
    page.get_by_role("link", name=HOSTILE, exact=True).click()
    assert page.locator(".run:target h2").inner_text().startswith(HOSTILE)
    assert page.locator("img[src=x]").count() == 0
    page.locator(".run:target details").evaluate("e => { e.open = true; }")
    assert page.locator(".run:target dd", has_text=HOSTILE).first.is_visible()


def test_on_a_phone_only_the_table_scrolls_sideways(open_page):
    page = open_page(**PHONE)
    width = "() => document.documentElement.scrollWidth"
    assert page.evaluate(width) == 390
    box, name = page.locator(".scroll"), page.locator("#runs tbody .name").first
    before = name.bounding_box()["x"]
    assert box.evaluate("e => { e.scrollLeft = 500; return e.scrollLeft; }") > 200
    assert name.bounding_box()["x"] == pytest.approx(before, abs=2)
    go_to_run(page, "unet_fold0")
    assert page.evaluate(width) == 390
    assert page.locator(".run:target .strip").first.bounding_box()["width"] > 300


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_enough_contrast_in_light_and_dark(open_page, scheme):
    page = open_page(color_scheme=scheme)
    assert is_dark(page.screenshot()) == (scheme == "dark")
    page.get_by_role("button", name="unet").click()
    for name in (None, "unet_fold0"):
        if name:
            go_to_run(page, name)
        seen, low = page.evaluate(CONTRASTS)
        assert seen > 50
        assert low == []
    page.locator("#theme").click()
    assert is_dark(page.screenshot()) == (scheme == "light")


def test_without_javascript_links_still_open_runs(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator("#runs").is_visible()
    page.get_by_role("link", name="solo9").click()
    assert page.locator(".run:visible h2").inner_text().startswith("solo9")
    assert not page.locator("#runs").is_visible()


def test_a_served_page_reloads_a_newer_version_and_keeps_its_state(open_page, found):
    with open_server("127.0.0.1", 0) as server:
        first = build_page(found, Pictures(0), None)
        server.page = shown(first)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = open_page(f"http://127.0.0.1:{server.server_address[1]}/", **PHONE)
        page.get_by_label("Filter").fill("fold=0")
        page.get_by_role("button", name="run", exact=True).click()
        page.get_by_role("button", name="run", exact=True).click()
        page.get_by_role("button", name="wide").click()
        page.locator(".scroll").evaluate("e => { e.scrollLeft = 120; }")
        page.evaluate("scrollTo(0, 60)")
        order = names(page)
        assert order == ["wide", "unet", "solo10", "solo9", "gate"]
        server.page = shown(first.replace(b"updated 2", b"changed 2"), "a line about the problem")
        page.get_by_text("a line about the problem").wait_for()
        page.wait_for_load_state()  # the script of the new page restores the state once the page is loaded
        assert names(page) == order
        assert page.get_by_label("Filter").input_value() == "fold=0"
        assert page.get_by_role("link", name="wide_fold0").is_visible()
        assert page.locator(".scroll").evaluate("e => e.scrollLeft") == 120
        assert page.evaluate("scrollY") == pytest.approx(60, abs=2)
        go_to_run(page, "wide_fold0")
        server.page = shown(first)
        page.get_by_text("a line about the problem").wait_for(state="detached")
        page.locator("#served:empty").wait_for(state="attached")
        assert page.locator(".run:target h2").inner_text().startswith("wide_fold0")
        server.shutdown()


DRAWN = """() => [...document.querySelectorAll("#runs tbody")].filter((e) => e.getClientRects().length).length"""


def test_rows_of_a_long_table_are_drawn_as_they_come_into_sight(tmp_path, open_page):
    for number in range(100):
        write_run(tmp_path / "experiments" / f"run{number:02}", [number / 1000], data_dir="gone", seed=number)
    Maker([str(tmp_path / "experiments")]).write(tmp_path / "long.html")
    page = open_page((tmp_path / "long.html").as_uri())
    assert page.locator("#shown").inner_text() == "100 of 100 rows shown"
    assert 0 < page.evaluate(DRAWN) < 100
    page.locator(".scroll").evaluate("box => { box.scrollTop = box.scrollHeight; }")
    while page.evaluate(DRAWN) < 100:
        page.locator(".scroll").evaluate("box => { box.scrollTop = box.scrollHeight; }")
        page.wait_for_timeout(20)
    page.get_by_role("button", name="run", exact=True).click()
    assert names(page)[:2] == ["run00", "run01"]
    assert page.locator(".scroll").evaluate("box => box.scrollTop") == 0
    page.get_by_label("Filter").fill("run9")
    assert names(page) == [f"run9{digit}" for digit in range(10)]
    assert page.evaluate(DRAWN) == 10
