"""Write the tables of flags in docs/flags_and_files.md from the settings of the scripts; the rest of it stays.

python docs/write_flags.py
"""

import ast
import dataclasses
import importlib
import inspect
import itertools
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "flags_and_files.md"
BEGIN, END = "<!-- flags: written by docs/write_flags.py -->\n", "<!-- end of flags -->\n"
SCRIPTS = {
    "train.py": ["TrainSettings"],
    "train_border.py": ["Settings"],
    "train_classifier.py": ["Settings"],
    "predict.py": ["Settings"],
    "predict_tta.py": ["Settings"],
    "predict_se.py": ["Settings"],
    "predict_fold_avg.py": ["Settings"],
    "optimize_threshold.py": ["OptimizeSettings"],
    "report.py": ["Settings"],
    "utils/stack_and_save.py": ["Settings"],
    "utils/make_folds.py": ["Settings"],
    "utils/make_demo.py": ["Settings"],
    "utils/hold_out.py": ["Settings"],
    "utils/look.py": ["Settings"],
    "utils/submission.py": ["CheckSettings", "ScoreSettings"],
    "utils/share.py": ["PushSettings", "PullSettings"],
    "utils/export.py": ["Settings"],
    "utils/contest.py": ["DownloadSettings", "SubmitSettings"],
}
"""Script -> its settings, in the order of the page; a script with commands has one for each."""
LIKE = {"train_border.py": "train.py", "train_classifier.py": "train.py"}
LIKE |= {"predict_tta.py": "predict.py", "predict_se.py": "predict.py"}
"""Script -> another one, whose flags are not listed again."""


class Flag(NamedTuple):
    """One flag of a script."""

    name: str
    default: Any
    """dataclasses.MISSING if the flag is required."""
    choices: tuple[str, ...]
    positional: bool
    help: str


def flags_of(settings: type, default: Any = dataclasses.MISSING) -> Iterator[Flag]:
    """Yield the flags of a settings dataclass in the order of --help, groups included.

    Args:
        settings: the dataclass.
        default: an instance whose values are the defaults; without it those of the fields.
    """
    hints, helps = get_type_hints(settings), field_docstrings(settings)
    with_extras = get_type_hints(settings, include_extras=True)
    for field in dataclasses.fields(settings):
        value = field.default if default is dataclasses.MISSING else getattr(default, field.name)
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        if dataclasses.is_dataclass(hints[field.name]):
            yield from flags_of(hints[field.name], value)
        else:
            kinds = [hints[field.name], *get_args(hints[field.name])]
            choices = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())
            positional = "Positional" in repr(with_extras[field.name]) or "_Positional" in repr(with_extras[field.name])
            yield Flag(field.name, value, choices, positional, helps.get(field.name, ""))


def field_docstrings(settings: type) -> dict[str, str]:
    """Return the docstring of each field of a dataclass, inherited fields included, each on one line."""
    found: dict[str, str] = {}
    for cls in reversed(settings.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[field.target.id] = " ".join(text.value.value.split())
    return found


def shown(flag: Flag) -> str:
    """Return the row of a flag in a Markdown table."""
    name = f"`{flag.name.upper()}`" if flag.positional else f"`--{flag.name}`"
    value = "required" if flag.default is dataclasses.MISSING else ""
    if flag.default not in (dataclasses.MISSING, None, (), "") and flag.default is not False:
        plain = " ".join(map(str, flag.default)) if isinstance(flag.default, tuple) else flag.default
        value = f"`{plain}`"
    text = flag.help
    if flag.choices and not all(choice in text for choice in flag.choices):
        text = f"{', '.join(f'`{choice}`' for choice in flag.choices)}: {text}"
    text = re.sub(r"([|<])", r"\\\1", text)
    return f"| {name} | {value} | {text} |"


def tables() -> str:
    """Return the tables of all scripts as Markdown."""
    lines: list[str] = []
    listed: dict[str, set[Flag]] = {}
    for script, names in SCRIPTS.items():
        module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
        for name in names:
            settings = getattr(module, name)
            flags = [flag for flag in flags_of(settings) if flag.name != "debug"]
            listed[script] = set(flags)
            own = [flag for flag in flags if flag not in listed.get(LIKE.get(script, ""), ())]
            command = f" {name.removesuffix('Settings').lower()}" if len(names) > 1 else ""
            lines += ["", f"### `{script}{command}`", ""]
            if script in LIKE:
                left_out = sorted({flag.name for flag in listed[LIKE[script]]} - {flag.name for flag in flags})
                but = f" except {', '.join(f'`--{name}`' for name in left_out)}" if left_out else ""
                lines += [f"All flags of `{LIKE[script]}`{but}, with these differences:", ""]
            lines += ["| flag | default | what it does |", "|---|---|---|", *map(shown, own)]
    return "\n".join([*lines, "", ""])


def page(text: str) -> str:
    """Return the text of the page with its tables replaced by the current ones."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + tables() + END + rest.partition(END)[2]


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(page(PAGE.read_text()))
