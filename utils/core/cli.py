"""Run a script: parse its flags into settings, call its main function, turn errors into one line and an exit code."""

import io
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from itertools import dropwhile, takewhile
from types import FrameType
from typing import Any, NoReturn, TypeVar, get_type_hints

from utils.core.errors import Interrupted, ReportedElsewhere, UsageError, explain
from utils.core.names import nearest, pick
from utils.core.settings import check_spelling, flat_names, from_flat, read_flags

S = TypeVar("S")
TYPES = {"INT": "a whole number", "FLOAT": "a number", "STR": "a text"}
"""What a flag expects, by tyro's names."""


def run(main: Callable[[S], object], settings_type: type[S], argv: list[str] | None = None, prog: str = "") -> NoReturn:
    """Parse the command line into `settings_type`, call `main` with it, and exit.

    The fields of the dataclass are the flags, and their docstrings are the help. Nested dataclasses are groups of flags
    without a prefix. Two fields have a meaning here: `config` names a JSON file of defaults, `debug` shows tracebacks.

    Exit codes: 0 success, 1 a problem with data or machine, 2 wrong usage, 128 + n ended by signal n.
    """
    argv = sys.argv[1:] if argv is None else argv
    signal.signal(signal.SIGTERM, _terminate)
    # OpenMP threads spin only briefly while they wait, so that two runs can share the cores
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    prog = prog or os.path.basename(sys.argv[0])
    try:
        main(parse(settings_type, argv, prog))
        sys.stdout.flush()
    except ReportedElsewhere as error:
        sys.exit(error.exit_code)
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in argv:
            raise
        code, message = explain(error)
        print(f"{prog}: {message}", file=sys.stderr)
        sys.exit(code)
    sys.exit(0)


def run_commands(commands: Mapping[str, tuple[Callable[[Any], object], type]]) -> NoReturn:
    """Run `script.py COMMAND ...`: the first word selects the (main, settings) pair that is passed to `run`."""
    prog, words = os.path.basename(sys.argv[0]), sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: {prog} {{{','.join(commands)}}} ...\n\n{sys.modules['__main__'].__doc__}")
        sys.exit(0 if words else 2)
    try:
        main, settings_type = pick(commands, words[0], "command")
    except UsageError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    run(main, settings_type, words[1:], f"{prog} {words[0]}")


def parse(settings_type: type[S], argv: list[str], prog: str = "") -> S:
    """Return the settings for a command line; `--config FILE` gives defaults that flags override."""
    import tyro

    default = None
    known = flat_names(settings_type)
    for name in _named(argv) - known.keys():
        check_spelling(name, _value_of(argv, f"--{name}") or "")
    if "config" in known and (path := _defaults_file(argv)):
        values = read_flags(path)
        if isinstance(values, dict):  # tyro has no flag for a switch that is on by default
            values = {name: value for name, value in values.items() if name not in _named(argv)}
        default = from_flat(settings_type, values, origin=path)
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            settings, unknown = tyro.cli(
                settings_type,
                prog=prog,
                description=_described(sys.modules["__main__"].__doc__),
                args=argv,
                default=default,
                return_unknown_args=True,
                use_underscores=True,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as ended:
        if ended.code:
            raise UsageError(_one_line(said.getvalue())) from None
        raise
    if unknown:
        raise UsageError(_unexpected(unknown[0], argv, settings_type))
    return settings


def _one_line(box: str) -> str:
    """Return tyro's box about a wrong flag as one line.

    Below its title, the box has the message, up to a horizontal line, an empty line or a list of errors.
    """
    lines = [line.strip("│ ") for line in box.splitlines()][1:]
    ends = re.compile(r"[─-]{9,}|Got errors|$")
    text = " ".join(takewhile(lambda line: not ends.match(line), dropwhile(ends.match, lines)))
    if text.startswith("Missing from"):
        if names := re.findall(r"--[a-z_]+(?= )", text):
            return f"{', '.join(names)}: missing; --help describes all flags"
        about = re.sub(r"Missing from .*: [A-Z]+ (.*?)\.? \(required\)", r"\1", text)
        return f"expected {about}; --help describes all flags"
    numbers = r"Error parsing (--\w+): (?:invalid literal for|could not convert string to) (\w+).*'(.*)'"
    if number := re.match(numbers, text):
        return f"{number[1]} {number[3]}: expected {TYPES[number[2].upper()]}; --help describes all flags"
    if value := re.match(r"Error parsing (--\w+): .* matching (.*) could be .* from \['?(.*?)'?\]", text):
        expected = " or ".join(TYPES.get(kind, kind) for kind in value[2].split("|") if kind != "{None}")
        return f"{value[1]} {value[3]}: expected {expected}; --help describes all flags"
    return f"{text.rstrip('.')}; --help describes all flags"


def _unexpected(word: str, argv: list[str], settings_type: type) -> str:
    """Return the message for a word of the command line that belongs to no flag."""
    known, hints = flat_names(settings_type), get_type_hints(settings_type, include_extras=True)
    positional = [name for name, kind in hints.items() if "Positional" in repr(kind)]
    if word.startswith("-"):
        name = word.lstrip("-").partition("=")[0].replace("-", "_")
        if name in positional:
            return f"--{name}: expected its values alone; leave out --{name}"
        hint = nearest(f"--{name}", [f"--{flag}" for flag in known])
        return f"{word.partition('=')[0]}: no such flag; {hint}"
    before = argv[argv.index(word) - 1] if word in argv[1:] else ""
    if known.get(before.removeprefix("--")) is bool:
        return f"{before} {word}: this flag takes no value; leave out {word}"
    if positional:
        values = " and ".join(name.upper() for name in positional)
        return f"{word}: expected no more values than {values}; --help lists all flags"
    example = "data_dir" if "data_dir" in known else next(iter(known))
    return (
        f"{word}: expected a flag before this value, such as --{example} {word}; a path with blanks needs quotes, and "
        "--help lists all flags"
    )


def _terminate(number: int, _frame: FrameType | None) -> NoReturn:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that temporary files are removed."""
    raise Interrupted(number, "terminated; no partially written files were left behind")


def _described(docstring: str | None) -> str:
    """Make each launch command in a docstring a paragraph, because --help drops single line breaks."""
    return re.sub(r"\n\s*(?=(?:python|torchrun|bash) )", "\n\n", docstring or "")


def _defaults_file(argv: list[str]) -> str | None:
    """Return the file with defaults: --config, else config.json of the run to resume, else None."""
    if named := _value_of(argv, "--config"):
        return named
    folder = _value_of(argv, "--experiment_dir")
    own = os.path.join(folder or "", "config.json")
    return own if "--resume" in argv and folder and os.path.isfile(own) else None


def _named(argv: list[str]) -> set[str]:
    """Return the flags in `argv` by the names of their fields."""
    return {word[2:].partition("=")[0].replace("-", "_") for word in argv if word.startswith("--")}


def _value_of(argv: list[str], flag: str) -> str | None:
    """Return the value of `flag` in `argv` ("--flag value" or "--flag=value") without parsing the rest."""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if word == flag:
            return following or None
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None
