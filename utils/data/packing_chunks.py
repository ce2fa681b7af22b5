"""Packing of a chunk of images, by one process: what has been packed is kept, so that packing continues after a kill.

Unfinished arrays lie in the folder .packing of the packed folder, under their final names. The chunks write their rows
at the places that the plan gives them, each chunk its own, and then a file with the facts about its rows; a chunk with
such a file is finished. Runs of masks, whose length is not known before, are files of the chunk, to be joined at the
end.
"""

import shutil
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.core.arrays import array_writer
from utils.core.errors import UserError
from utils.core.files import read_json, write_json
from utils.data.compact_rows import row_digest, runs_of
from utils.data.layouts import Item, Source
from utils.data.samples import Sample, load_sample

UNFINISHED = ".packing"
MARK = "mark.json"
CHUNK = 256
"""Images per chunk; a kill loses at most one chunk per core."""


@dataclass(frozen=True)
class RowFacts:
    """Facts about a packed image, for manifest, report and train.csv."""

    size: tuple[int, int]
    """(height, width) of the source image."""
    digest: str
    """Digest of the source image's shape and pixels, as hex digits."""
    background: str
    seen: dict[str, int]
    """Kind of finding -> its count."""
    rows: dict[str, str]
    """Array -> digest of the packed row, as hex digits."""
    coverage: float | None = None
    """Share of the packed image that is mask, [0, 1]; None without masks."""
    runs: dict[str, int] = field(default_factory=dict)
    """Array -> number of runs of the row, in a compact store."""


@dataclass(frozen=True)
class Job:
    """A chunk of images and where its rows belong."""

    name: str
    """Name of the chunk, such as train_00012."""
    items: list[Item]
    source: Source
    """The source without its items."""
    shape: tuple[int, int] | None
    """(height, width) of every packed image; None if each keeps its own size."""
    channels: int
    places: dict[str, tuple[str, int]]
    """Array -> (file, position of the chunk's first byte), for arrays whose rows have known places."""
    folder: Path
    """Folder of unfinished arrays."""
    compact: bool
    file_sizes: list[int]
    """Bytes of each image file, which a compact store has room for."""

    @property
    def facts_file(self) -> Path:
        return self.folder / f"{self.name}.json"


def pack_chunk(job: Job) -> list[RowFacts]:
    """Write the rows of a chunk, unless that is done, and return the facts about them.

    Raises:
        BrokenImage: an image or its truth is broken.
        UserError: an image file has changed since packing began.
        ColourFound: an image has colours, but those before it have none.
    """
    if job.facts_file.is_file():
        return [RowFacts(**{**one, "size": tuple(one["size"])}) for one in read_json(job.facts_file)]
    facts: list[RowFacts] = []
    runs: dict[str, list[np.ndarray]] = {}
    with ExitStack() as opened:
        files = {}
        for name, (file, position) in job.places.items():
            files[name] = opened.enter_context(open(job.folder / file, "rb+"))
            files[name].seek(position)
        for item, n_bytes in zip(job.items, job.file_sizes, strict=True):
            sample = load_sample(item, job.source, job.shape, job.channels)
            encoded = {} if not job.compact else {name: runs_of(row) for name, row in sample.truth.items()}
            facts.append(facts_of(sample, {name: len(found) for name, found in encoded.items()}))
            for name, found in encoded.items():
                runs.setdefault(name, []).append(found)
            if job.compact and len(sample.content) != n_bytes:
                raise UserError(f"{item.image}: changed while it was packed; run the same command again")
            for name, file in files.items():
                file.write(sample.content if job.compact else np.ascontiguousarray(sample.arrays[name]))
    for name, found in runs.items():
        whole = np.concatenate(found)
        with array_writer(job.folder / f"{job.name}_{name}.npy", whole.shape, "uint32") as writer:  # names a full disk
            writer.append(whole)
    write_json(job.facts_file, [vars(one) for one in facts], indent=None)
    return facts


def facts_of(sample: Sample, runs: dict[str, int]) -> RowFacts:
    """Return the facts about a sample; `runs` are the numbers of its runs by array."""
    digests = {name: row_digest(row).hex() for name, row in sample.truth.items()}
    whole = sample.arrays["images"].shape[:2] == sample.source_size
    digests["images"] = (sample.digest if whole else row_digest(sample.arrays["images"])).hex()
    masks = sample.arrays.get("masks")
    return RowFacts(
        size=sample.source_size,
        digest=sample.digest.hex(),
        background=sample.background,
        seen=dict(sample.seen),
        rows=digests,
        coverage=None if masks is None else round(float(masks.mean()), 6),
        runs=runs,
    )


def unfinished_folder(out_dir: Path, mark: str, files: Mapping[str, tuple[bytes, int]]) -> Path:
    """Return the folder of unfinished arrays, with those of an earlier attempt if it packed the same.

    Args:
        out_dir: folder to pack to.
        mark: digest of everything that decides what is packed.
        files: name -> (header, bytes including the header) of the files whose rows have known places.
    """
    folder = out_dir / UNFINISHED
    with suppress(UserError):
        kept = read_json(folder / MARK) == mark
        if kept and all((folder / name).is_file() for name in files):
            return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, (header, n_bytes) in files.items():
        with open(folder / name, "wb") as file:
            file.write(header)
            file.truncate(n_bytes)  # rows that are not written yet take no space
    write_json(folder / MARK, mark)
    return folder


def bytes_kept(out_dir: Path) -> int:
    """Return the bytes on the disk that an unfinished attempt to pack to this folder has taken."""
    return sum(512 * path.stat().st_blocks for path in (out_dir / UNFINISHED).glob("*"))
