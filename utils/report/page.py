"""The report page: one HTML file that contains its style, script, charts and pictures.

When the page is built repeatedly, runs that have not changed are neither scored nor drawn again.
"""

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from utils.core.errors import UsageError
from utils.core.files import atomic_file
from utils.core.progress import duration
from utils.report import formatting as words
from utils.report.charts import bar
from utils.report.facts import Overview, RunFacts, RunState
from utils.report.find_runs import runs_below, short_names
from utils.report.formatting import count
from utils.report.groups import overview, stored_cross
from utils.report.judge import COVERAGES, Cache
from utils.report.pictures import PANELS, Pictures, Strip
from utils.report.read_run import read_run
from utils.report.run_charts import Figure, curves, reliability_figure, threshold_figure
from utils.report.table import anchor_of, columns_of, encoded_scores, entries_of
from utils.scoring.mask_metrics import METRICS

HERE = Path(__file__).parent
GENERATOR = "Strata report"
"""Marks a file as a report page, so that it may be overwritten."""
SCRIPTS = ("table.js", "compare.js", "page.js")
"""Parts of one JavaScript module, in order."""
SERVED = "<!-- served -->"
"""Placeholder for the status line of a served page."""
STATES: tuple[RunState, ...] = ("running", "finished", "interrupted", "failed", "unreadable")


@dataclass(frozen=True)
class Fact:
    """A named value in the section of a run."""

    name: str
    text: str
    detail: str = ""


@dataclass(frozen=True)
class Section:
    """The section of one run."""

    run: RunFacts
    anchor: str
    href: str
    """link to the folder of the run; empty in a served page."""
    facts: list[Fact]
    figures: list[Figure]
    galleries: dict[str, list[Strip]]
    settings: list[tuple[str, str]]
    rules: list[tuple[str, str]]
    """(name, value) of the fitted post-processing of objects or thresholds of labels."""


def build_page(overview: Overview, pictures: Pictures, folder: str | Path | None) -> bytes:
    """Return the page as HTML.

    Args:
        overview: the runs to show.
        pictures: draws the galleries.
        folder: folder that the file will be written to, so that links to the folders of the runs are relative to it.
            None for a served page, which has no such links and polls its server for a newer version.
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
    return text.encode("utf-8", "replace")  # the name of a folder may contain bytes that are not UTF-8


def as_script_data(value: Any) -> str:
    """Return `value` as JSON that is safe in a <script>: no string in it can end the element or start a comment."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _text_of(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _hash_of(text: str) -> str:
    """Return the content security policy source that allows exactly this text."""
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
    """Return the URL of `path` relative to `folder`; a colon in a name is not read as the end of a URL scheme."""
    return "./" + quote(os.fsencode(os.path.relpath(path, folder)).replace(os.fsencode(os.sep), b"/")) + "/"


def _flags(settings: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, words.setting(value)) for name, value in settings.items()]


def _rules(stored: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Return the plain values of objects.json or labels.json, followed by its per-label thresholds."""
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
    of_masks = "" if run.measure in METRICS else " (mask iout)"
    taken = Fact(f"threshold{of_masks}", words.threshold(judged.threshold), judged.threshold_from)
    if judged.min_area:
        taken = Fact(taken.name, taken.text, f"{taken.detail}; masks under {judged.min_area} pixels are emptied")
    crosses = {f"cross-fitted{of_masks}": judged.cross}
    if run.measure in METRICS and run.measure != "iout":
        crosses = {f"cross-fitted {run.measure}": stored_cross([run]), "cross-fitted iout": judged.cross}
    found = [
        Fact(name, words.score(cross.score), f"{words.score(cross.low)} to {words.score(cross.high)}")
        for name, cross in crosses.items()
        if cross
    ]
    return [*found, taken]


@dataclass
class Maker:
    """Builder of the page of the runs below some paths."""

    paths: Sequence[str]
    cache: Cache = field(default_factory=Cache)
    pictures: Pictures = field(default_factory=Pictures)

    def read(self) -> Overview:
        """Read all runs in their current state; raise UserError if there are none."""
        folders = runs_below(self.paths)
        names = short_names(folders)
        return overview([read_run(path, name, self.cache) for path, name in zip(folders, names, strict=True)])

    def page(self) -> bytes:
        """Return the page as it is served."""
        return build_page(self.read(), self.pictures, None)

    def write(self, out: str | Path) -> str:
        """Write the page to a file atomically and return a one-line summary.

        Raises:
            UsageError: `out` is a folder, or an existing file that is not a report page.
            UserError: there are no runs.
        """
        out = Path(out)
        _check(out)
        found = self.read()
        page = build_page(found, self.pictures, out.parent)
        with atomic_file(out) as part:
            part.write_bytes(page)
        runs = [run for group in found.groups for run in group.runs]
        lost = sum(run.state == "unreadable" for run in runs)
        unreadable = f" ({lost} unreadable; the page shows why)" if lost else ""
        rows = count(len(found.groups), "row")
        return f"{out}: {count(len(runs), 'run')} in {rows}{unreadable}, {len(page) / 1e6:.1f} MB"


def _check(out: Path) -> None:
    """Raise UsageError if `out` is a folder or a file that is not a report page."""
    if out.is_dir():
        raise UsageError(f"--out {out}: expected a file, found a folder; use for example {out / 'report.html'}")
    if os.path.lexists(out):
        with open(out, "rb") as file:
            if GENERATOR.encode() not in file.read(2000):
                raise UsageError(f"--out {out}: the file exists and is not a report page; choose another name")
