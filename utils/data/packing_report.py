"""Findings of packing: counts and examples, for the manifest and for the screen."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from utils.data.layouts import Source
from utils.data.packing_chunks import RowFacts

N_EXAMPLES = 3
COMMON = ("objects", "empty_masks")
"""Findings that are normal, so they are counted without examples."""

MEANING = {
    "masks_too_dark": "no value above half of the range, so all values but 0 are mask",
    "masks_not_binary": "the values above half of the range are mask, or all but 0 if none is",
    "exif_rotations": "ignored: pixels are used as they are stored, and masks have to fit those",
    "dark_16_bit_images": "no value above a sixteenth of the range: few levels remain in 8 bits; save them brighter",
    "overlapping_pixels": "claimed by several objects; the first one keeps them",
    "objects_without_pixels": "left out: their masks are empty",
    "objects_hidden": "left out: other objects cover all of their pixels",
    "objects_lost_by_resizing": "left out: too small to have a pixel at this size",
}
"""Explanation of a finding, printed if its count is not 0."""


class Survey:
    """Counts of findings in the images of one part, which are added in their order.

    Args:
        kinds: findings to report even if their count is 0.
        others: surveys of other parts by name; images that are also in those parts are counted.
    """

    def __init__(self, kinds: Iterable[str], others: Mapping[str, "Survey"]) -> None:
        self._others = dict(others)
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._counts: dict[str, int] = dict.fromkeys(kinds, 0)
        self._examples: dict[str, list[str]] = {}
        self.digests: set[str] = set()
        """Digests of the images added so far."""
        self.coverage: list[float] = []
        """Share of each packed image that is mask, [0, 1]."""
        self.objects: list[int] = []
        """Number of objects in each packed image."""
        self.backgrounds: list[str] = []
        """Background of each image: dark, bright or coloured."""

    def add(self, name: str, facts: RowFacts) -> None:
        """Add the facts about the image with the id `name`."""
        self._sizes[facts.size] += 1
        self.backgrounds.append(facts.background)
        if facts.coverage is not None:
            self.coverage.append(facts.coverage)
            self.objects.append(facts.seen.get("objects", 0))
        seen = facts.seen | {"exact_duplicates": int(facts.digest in self.digests)}
        seen |= {f"images_also_in_{part}": int(facts.digest in other.digests) for part, other in self._others.items()}
        self.digests.add(facts.digest)
        for kind, number in seen.items():
            self._counts[kind] = self._counts.get(kind, 0) + number
            examples = self._examples.setdefault(kind, [])
            if number and kind not in COMMON and len(examples) < N_EXAMPLES:
                examples.append(name)

    def report(self) -> dict[str, Any]:
        """Return plain values: {"images": n, "sizes": {"HxW": n}, "counts": {kind: n}, "examples": {kind: ids}}."""
        return {
            "images": self._sizes.total(),
            "sizes": {f"{height}x{width}": number for (height, width), number in self._sizes.most_common()},
            "counts": self._counts,
            "examples": {kind: names for kind, names in self._examples.items() if names},
        }


def kinds_of(source: Source, part: str) -> list[str]:
    """Return the findings that are always reported for a part, in the order of the report."""
    kinds = ["constant_images", "exact_duplicates"]
    if part != "train":
        return kinds
    if source.class_table is None:
        kinds.append("empty_masks")
    has_files = any(item.mask or item.objects for item in source.train)
    if has_files:
        kinds.append("masks_not_binary")
    if has_files and any(item.run_lengths is not None for item in source.train):
        kinds.append("masks_unlike_csv")
    return kinds + (["objects", "overlapping_pixels", "objects_without_pixels"] if source.has_instances else [])


def report_lines(part: str, report: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that the screen shows for a part's report."""
    yield line(f"{part} images", report["images"])
    yield line("  height x width", shown_sizes(report["sizes"]))
    if skipped := report.get("skipped"):
        yield line("  skipped images", f"{len(skipped):<7}  (left out because they are broken)")
        yield from (f"    {name}: {reason}" for name, reason in skipped.items())
    for kind, number in report["counts"].items():
        examples = report["examples"].get(kind, [])
        shown = [name if len(name) <= 20 else f"{name[:20]}..." for name in examples]
        such_as = f"  such as {', '.join(shown)}" if shown else ""
        meaning = f"  ({MEANING[kind]})" if number and kind in MEANING else ""
        yield line(f"  {kind.replace('_', ' ')}", f"{number:<7}{such_as}{meaning}".rstrip())


def shown_sizes(sizes: dict[str, int]) -> str:
    """Return size -> count as text, in that order, such as "256x256 (334), 256x320 (112)"; at most 12 sizes."""
    shown = [f"{size} ({number})" for size, number in sizes.items()]
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")


def line(name: str, value: object) -> str:
    """Return one aligned line of the report."""
    return f"{name:<26}  {value}"
