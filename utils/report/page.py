"""The page itself: one HTML file with its style, script, charts and pictures inside, which needs no network."""

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from utils.report import words
from utils.report.charts import bar
from utils.report.counted import COVERAGES
from utils.report.facts import Overview, RunFacts, RunState
from utils.report.figures import Figure, curves, reliability_figure, threshold_figure
from utils.report.paired import encoded_scores
from utils.report.pictures import PANELS, Pictures, Strip
from utils.report.rows import anchor_of, columns_of, entries_of
from utils.time_left import duration

HERE = Path(__file__).parent
GENERATOR = "Strata report"
"""Says that a file is a page of ours."""
SCRIPTS = ("table.js", "compare.js", "page.js")
"""One module, cut into three."""
SERVED = "<!-- served -->"
"""Where a page that is served gets a line about itself."""
STATES: tuple[RunState, ...] = ("running", "finished", "interrupted", "failed", "unreadable")


@dataclass(frozen=True)
class Fact:
    """A number about a run and its name."""

    name: str
    text: str
    beside: str = ""


@dataclass(frozen=True)
class Section:
    """What the page shows of one run."""

    run: RunFacts
    anchor: str
    href: str
    """of its folder; empty in a page that is served."""
    facts: list[Fact]
    figures: list[Figure]
    galleries: dict[str, list[Strip]]
    settings: list[tuple[str, str]]
    rules: list[tuple[str, str]]
    """of objects or labels, as they were fitted."""


def build_page(overview: Overview, pictures: Pictures, folder: str | Path | None) -> bytes:
    """The page as it is written to a file, or served.

    Args:
        overview: what it shows.
        pictures: draws the galleries.
        folder: where the file will lie, so that it can link to the folders of the runs; None for a page that is served,
            which has no such links and asks its server from time to time for a newer one.
    """
    import jinja2
    from markupsafe import Markup

    runs = [run for group in overview.groups for run in group.runs]
    style, script = Markup(_text_of("page.css")), Markup("".join(map(_text_of, SCRIPTS)))
    allowed = {"style-src": _hash_of(style), "script-src": _hash_of(script), "img-src": "data:"}
    if folder is None:
        allowed["connect-src"] = "'self'"
    entries, drawn = entries_of(overview), pictures.galleries(runs)
    scores = encoded_scores(overview.groups)
    groups = [{**one, "text": entry.text} for one, entry in zip(scores, entries, strict=True)]
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("page.html.j2")
    text = template.render(
        policy="; ".join(
            ["default-src 'none'", "base-uri 'none'", "form-action 'none'", *map(" ".join, allowed.items())]
        ),
        generator=GENERATOR,
        style=style,
        script=script,
        served=Markup(SERVED if folder is None else ""),
        overview=overview,
        made=overview.made.replace("T", " ")[:16],
        columns=columns_of(overview),
        entries=entries,
        n_runs=words.count(len(runs), "run"),
        states=[(state, n) for state in STATES if (n := sum(run.state == state for run in runs))],
        equal=_flags(overview.equal),
        sections=[_section(run, drawn.get(run.path, {}), folder) for run in runs],
        data=Markup(as_script_data({"groups": groups})),
        panels=PANELS,
        svg=Markup,
        words=words,
        bar=bar,
        limits=dict(COVERAGES),
    )
    return text.encode("utf-8", "replace")  # a folder's name may hold bytes that are no text


def as_script_data(value: Any) -> str:
    """JSON that can stand in a <script>: no name in it ends the element or begins a comment."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _text_of(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _hash_of(text: str) -> str:
    """What a content security policy allows: this text and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _section(run: RunFacts, galleries: dict[str, list[Strip]], folder: str | Path | None) -> Section:
    anchor = anchor_of(run)
    figures = curves(run, anchor)
    if run.judged is not None:
        more = (threshold_figure(run.judged, anchor), reliability_figure(run.judged, anchor))
        figures += [figure for figure in more if figure is not None]
    href = "" if folder is None else link(run.path, folder)
    return Section(run, anchor, href, _facts(run), figures, galleries, _flags(run.settings), _rules(run.stored_rules))


def link(path: str | Path, folder: str | Path) -> str:
    """The relative address of a folder, seen from a page in another one; no name in it is taken for a scheme."""
    return "./" + quote(os.fsencode(os.path.relpath(path, folder)).replace(os.fsencode(os.sep), b"/")) + "/"


def _flags(settings: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, words.setting(value)) for name, value in settings.items()]


def _rules(stored: dict[str, Any] | None) -> list[tuple[str, str]]:
    """The plain values of objects.json or labels.json, with those of its thresholds."""
    stored = stored or {}
    thresholds = stored.get("thresholds")
    named = thresholds if isinstance(thresholds, dict) else {}
    values = {**stored, **{f"threshold of {name}": value for name, value in named.items()}}
    return [
        (name, words.threshold(value) if isinstance(value, float) else words.setting(value))
        for name, value in values.items()
        if isinstance(value, bool | int | float | str)
    ]


def _facts(run: RunFacts) -> list[Fact]:
    done = len(run.log.get("epoch", []))
    facts = [
        Fact(
            f"best {run.measure}",
            words.score(run.best),
            f"epoch {run.best_epoch}" if run.best_epoch is not None else "",
        ),
        *_judged_facts(run),
        Fact("fold", "" if run.fold is None else str(run.fold)),
        Fact("epochs", str(done) if done else "", f"of {run.n_epochs}" if run.n_epochs not in (None, done) else ""),
        Fact("time", "" if run.seconds is None else duration(run.seconds)),
        Fact("images/s", words.rate(run.images_per_s)),
    ]
    return [fact for fact in facts if fact.text]


def _judged_facts(run: RunFacts) -> Sequence[Fact]:
    judged = run.judged
    if judged is None:
        return []
    of_masks = "" if run.measure == "iout" else " (iout of masks)"
    taken = Fact(f"threshold{of_masks}", words.threshold(judged.threshold), judged.threshold_from)
    if judged.min_area:
        taken = Fact(taken.name, taken.text, f"{taken.beside}; masks under {judged.min_area} pixels empty")
    if judged.cross is None:
        return [taken]
    cross = judged.cross
    return [
        Fact(
            f"cross-fitted{of_masks}",
            words.score(cross.score),
            f"{words.score(cross.low)} to {words.score(cross.high)}",
        ),
        taken,
    ]
