"""Scores of single images, small enough to stand in the page, which compares two rows of its table by them.

The page draws its own bootstrap (page.js) so that any two of 200 rows can be compared without a table of all pairs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from utils.report.facts import Group

MOST_SCORES = 1_500_000
"""Over all groups, two letters each; where there are more, images are left out, the same in each group."""
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
ABSENT = "--"
CODES = [DIGITS[number // 36] + DIGITS[number % 36] for number in range(1001)]


def encoded_scores(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Of each group what page.js needs.

    Returns:
        a dictionary each: `name`; `data`, the same number for groups on the same packed images, None where those are
        not known; `measure`; `scores`, two letters an image in an order that groups on the same data share: per mille
        in base 36, or `--` for an image that it did not predict out of fold; `of`, how many images there are in all, of
        which `scores` may hold an even choice only.
    """
    ids: dict[str, dict[str, None]] = {}
    for group in groups:
        ids.setdefault(digest_of(group) or "", {}).update(dict.fromkeys(group.honest))
    numbers = {digest: number for number, digest in enumerate(ids)}
    n_scores = sum(len(ids[digest_of(group) or ""]) for group in groups if group.honest)
    keep = min(1.0, MOST_SCORES / max(n_scores, 1))
    order = {digest: _even_choice(sorted(names), keep) for digest, names in ids.items()}
    return [
        {
            "name": group.name,
            "data": numbers[digest] if (digest := digest_of(group) or "") else None,
            "measure": group.runs[0].measure,
            "scores": "".join(_code(group.honest.get(name)) for name in order[digest]) if group.honest else "",
            "of": len(ids[digest]),
        }
        for group in groups
    ]


def digest_of(group: Group) -> str | None:
    """The packed images that a group is of."""
    return group.runs[0].digest


def _code(score: float | None) -> str:
    return ABSENT if score is None else CODES[round(1000 * score)]


def _even_choice(names: list[str], share: float) -> list[str]:
    if share == 1:
        return names
    rows = np.random.default_rng(4545).choice(len(names), int(share * len(names)), replace=False)
    return [names[row] for row in sorted(rows)]
