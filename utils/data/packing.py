"""Packing of a listed source: writes the arrays, csv files and manifest of a packed folder (see packed_data.py)."""

import errno
import hashlib
import math
import os
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from utils.core.arrays import Shape, array_header, array_shape, array_writer, common_shape
from utils.core.errors import Interrupted, UserError
from utils.core.files import locked
from utils.core.parallel import ProcessEnded, in_processes
from utils.core.progress import progress_bar
from utils.data.compact_rows import digest_of_rows
from utils.data.image_files import ColourFound
from utils.data.layouts import Source
from utils.data.packed_data import (
    FORMAT,
    MANIFEST,
    ArrayEntry,
    Manifest,
    PartEntry,
    manifest_if_any,
    open_packed,
    write_manifest,
)
from utils.data.packed_tables import check_class_table, check_tables, copy_tables, write_class_table, write_own_table
from utils.data.packing_chunks import CHUNK, UNFINISHED, Job, pack_chunk, unfinished_folder
from utils.data.packing_plan import Plan, Store, make_plan, way_out, with_store, without_items
from utils.data.packing_report import Survey, kinds_of
from utils.data.source_files import OWN_COLUMNS, image_files_in, is_packing_table

PATIENCE_S = 3.0
"""Seconds to wait for another packing of the same folder; the processes of a killed one end within one second."""


def fingerprint(source: Source, size: tuple[int, int] | None, skip_broken: bool = False) -> str:
    """Return a digest of the names, sizes and times of the source's files, its layout, `size` and `skip_broken`."""
    flags = f"{size} skip_broken" if skip_broken else f"{size}"  # keeps fingerprints from before --skip_broken valid
    digest = hashlib.sha256(f"{FORMAT} {source.layout} {flags}\n".encode())
    for path in _files(source):
        status = os.stat(path)
        name = path.removeprefix(source.folder).lstrip("/")
        digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def is_packed(out_dir: Path, mark: str, store: Store = "auto") -> bool:
    """Return True if `out_dir` holds everything that packing a source with the fingerprint `mark` writes.

    Raw or compact arrays will do, unless one of them is asked for by `store`.
    """
    manifest = manifest_if_any(out_dir)
    compact = any(entry.codec for part in manifest.parts.values() for entry in part.arrays.values())
    if manifest.fingerprint != mark or store == ("raw" if compact else "compact"):
        return False
    if not all((out_dir / name).is_file() for name in ("train.csv", *manifest.tables)):
        return False
    try:
        for part in manifest.parts:
            open_packed(out_dir, part)
    except UserError:
        return False
    return True


def _files(source: Source) -> Iterator[str]:
    """Yield every file that packing reads."""
    for items in source.parts.values():
        for item in items:
            yield item.image
            if item.mask:
                yield item.mask
            if item.objects:
                yield from image_files_in(item.objects).values()
    for table in dict.fromkeys([*source.tables, source.run_length_table, source.class_table]):
        if table and table.is_file() and not is_packing_table(table):
            yield str(table)


def pack_source(
    source: Source,
    size: tuple[int, int] | None,
    store: Store,
    out_dir: Path,
    mark: str,
    skipped: Mapping[str, str] | None = None,
) -> Manifest:
    """Plan and pack a source, as `make_plan`, `with_store` and `pack` do; return the manifest."""
    try:
        return pack(source, with_store(make_plan(source, size), store, out_dir), out_dir, mark, skipped)
    except ColourFound:  # only some images have colours, and those that were looked at have none
        return pack(source, with_store(make_plan(source, size, channels=3), store, out_dir), out_dir, mark, skipped)


def pack(source: Source, plan: Plan, out_dir: Path, mark: str, skipped: Mapping[str, str] | None = None) -> Manifest:
    """Write the arrays, the csv files and, last, the manifest.

    Arrays are written by all cores to a folder of unfinished arrays, which stays if packing is killed, so that the same
    command continues; they are moved to their targets at the end. The old manifest is removed before the first array is
    replaced, so that arrays of two packings are never combined.

    Args:
        source: source to pack.
        plan: result of `make_plan` for this source.
        out_dir: folder to write to.
        mark: fingerprint of the source, for the manifest.
        skipped: images that `without_broken` left out of the source, for the manifest.

    Returns:
        the manifest.

    Raises:
        UserError: the source is broken or inconsistent, or another process packs to the same folder; `out_dir` then
            keeps what it had.
        ColourFound: the plan has one channel, but an image has colours.
        Interrupted: SIGINT or SIGTERM; the unfinished arrays stay.
        OSError: no permission; `out_dir` then keeps what it had. If only moving the finished arrays
            fails, it is left without a manifest, so that the folder is packed again.
    """
    old = manifest_if_any(out_dir)
    written = old.tables
    check_tables(source.tables, out_dir, written)
    if source.class_table:
        check_class_table(source.class_table, out_dir, written)
    manifest = Manifest(layout=source.layout, fingerprint=mark)
    surveys: dict[str, Survey] = {}
    out_dir.mkdir(parents=True, exist_ok=True)
    with _alone(out_dir):
        with _ended_cleanly(out_dir):
            identity = f"{mark} {plan.channels} {plan.compact} {CHUNK}"
            folder = unfinished_folder(out_dir, identity, _files_with_places(plan))
            for part in source.parts:
                surveys[part] = Survey(kinds_of(source, part), surveys)
                manifest.parts[part] = _write_part(part, source, plan, folder, surveys[part])
                manifest.report[part] = surveys[part].report()
        if skipped:
            manifest.report["train"]["skipped"] = dict(skipped)
        manifest.tables.update(copy_tables(source.tables, out_dir))
        if source.class_table:
            manifest.tables.update(write_class_table(source.class_table, out_dir))
        else:
            write_own_table(_own_columns(source, plan, surveys["train"]), source.tables, out_dir, written)
        _forget(old, manifest, out_dir)
        for name in sorted(_array_files(manifest)):
            with open(folder / name, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(folder / name, out_dir / name)
        write_manifest(out_dir, manifest)
        shutil.rmtree(folder)
    return manifest


@contextmanager
def _alone(out_dir: Path) -> Iterator[None]:
    """Raise UserError if another process packs to the same folder."""
    try:
        with locked(out_dir, PATIENCE_S):
            yield
    except BlockingIOError:
        raise UserError(f"{out_dir}: another process is packing to this folder; wait until it ends") from None


@contextmanager
def _ended_cleanly(out_dir: Path) -> Iterator[None]:
    """Decide what stays of an attempt that fails, and say how to go on."""
    folder = out_dir / UNFINISHED
    try:
        yield
    except ProcessEnded:
        raise
    except (KeyboardInterrupt, Interrupted) as error:
        number = signal.SIGINT if isinstance(error, KeyboardInterrupt) else error.exit_code - 128
        raise Interrupted(number, f"{out_dir}: packing was interrupted; the same command continues it") from None
    except UserError:
        shutil.rmtree(folder, ignore_errors=True)  # the source has to change, so there is nothing to continue
        raise
    except OSError as error:
        error.filename = error.filename or str(out_dir)  # a process that writes does not send it
        if error.errno == errno.ENOSPC:
            raise UserError(
                f"{out_dir}: no space left on the disk; free some, and the same command continues "
                f"(the arrays so far are in {folder})"
            ) from None
        raise


def _files_with_places(plan: Plan) -> dict[str, tuple[bytes, int]]:
    """Return name -> (header, bytes) of the array files whose rows have places that are known before packing."""
    files = {}
    for part, arrays in plan.arrays.items():
        for name, (shapes, dtype) in arrays.items():
            if plan.compact and name != "images":
                continue
            shape = (sum(plan.file_sizes[part]),) if plan.compact else array_shape(shapes)
            header = array_header(shape, dtype)
            files[f"{part}_{name}.npy"] = header, len(header) + math.prod(shape) * np.dtype(dtype).itemsize
    return files


def _write_part(part: str, source: Source, plan: Plan, folder: Path, survey: Survey) -> PartEntry:
    """Write the arrays of a part with all cores, and return its entry in the manifest."""
    items, specs, jobs = source.parts[part], plan.arrays[part], _jobs(part, source, plan, folder)
    digests: dict[str, list[bytes]] = {name: [] for name in specs}
    runs: dict[str, list[int]] = {name: [] for name in specs}
    with way_out(part), progress_bar(None, f"pack {part}", "image", total=len(items)) as bar:
        for job, facts in zip(jobs, in_processes(pack_chunk, jobs), strict=True):
            for item, one in zip(job.items, facts, strict=True):
                survey.add(item.id, one)
                for name, digest in one.rows.items():
                    digests[name].append(bytes.fromhex(digest))
                for name, count in one.runs.items():
                    runs[name].append(count)
            bar.update(len(facts))
    arrays = {}
    for name, (shapes, dtype) in specs.items():
        if plan.compact:
            _join(folder, part, name, jobs, runs[name] or plan.file_sizes[part])
        digest = digest_of_rows(digests[name])
        codec = None if not plan.compact else "file" if name == "images" else "runs"
        arrays[name] = entry_of(f"{part}_{name}.npy", shapes, dtype, digest, codec)
    mixed = common_shape(plan.arrays[part]["images"][0]) is None
    kept = mixed or (plan.shape is not None and (plan.sizes[part] != plan.shape).any())
    return PartEntry([item.id for item in items], arrays, plan.sizes[part].tolist() if kept else None, mixed)


def _jobs(part: str, source: Source, plan: Plan, folder: Path) -> list[Job]:
    """Return the chunks of a part, each with the places of its rows in the files."""
    items, sizes = source.parts[part], plan.file_sizes[part]
    starts = {}
    for file, (header, _) in _files_with_places(plan).items():
        name = file.removeprefix(f"{part}_").removesuffix(".npy")
        if file.startswith(f"{part}_"):
            shapes, dtype = plan.arrays[part][name]
            row_bytes = sizes if plan.compact else [math.prod(shape) * np.dtype(dtype).itemsize for shape in shapes]
            starts[name] = file, np.concatenate([[len(header)], len(header) + np.cumsum(row_bytes, dtype=np.int64)])
    return [
        Job(
            name=f"{part}_{first // CHUNK:05}",
            items=items[first : first + CHUNK],
            source=without_items(source),
            shape=plan.shape,
            channels=plan.channels,
            places={name: (file, int(places[first])) for name, (file, places) in starts.items()},
            folder=folder,
            compact=plan.compact,
            file_sizes=sizes[first : first + CHUNK],
        )
        for first in range(0, len(items), CHUNK)
    ]


def _join(folder: Path, part: str, name: str, jobs: Sequence[Job], lengths: Sequence[int]) -> None:
    """Write where the rows of a compact array end and, if they are runs, the runs of all chunks as one array."""
    ends = np.cumsum(lengths, dtype=np.int64)
    with array_writer(folder / ends_file(f"{part}_{name}.npy"), ends.shape, "int64") as writer:
        writer.append(ends)
    if name != "images":
        with array_writer(folder / f"{part}_{name}.npy", (int(ends[-1]), 2), "uint32") as writer:
            for job in jobs:
                writer.append(np.load(folder / f"{job.name}_{name}.npy"))


def ends_file(file: str) -> str:
    """Return the name of the file with the ends of the rows of a compact array."""
    return f"{Path(file).stem}_ends.npy"


def _own_columns(source: Source, plan: Plan, survey: Survey) -> dict[str, Sequence[object]]:
    """Return the columns of train.csv: id, height and width of the source image, coverage, objects, background.

    Coverage is the share of the packed image that is mask. New columns must be added at the end, because
    `is_packing_table` recognises the file by its first columns.
    """
    height, width = plan.sizes["train"].T.tolist()
    columns = dict(zip(OWN_COLUMNS, ([item.id for item in source.train], height, width, survey.coverage), strict=True))
    objects = {"objects": survey.objects} if source.has_instances else {}
    return {**columns, **objects, "background": survey.backgrounds}


def _forget(old: Manifest, new: Manifest, out_dir: Path) -> None:
    """Remove the manifest of an earlier packing and all of its arrays that `new` does not replace."""
    (out_dir / MANIFEST).unlink(missing_ok=True)
    for name in _array_files(old) - _array_files(new):
        (out_dir / name).unlink(missing_ok=True)


def _array_files(manifest: Manifest) -> set[str]:
    entries = [entry for part in manifest.parts.values() for entry in part.arrays.values()]
    return {Path(name).name for entry in entries for name in (entry.file, *([entry.ends] if entry.ends else []))}


def entry_of(file: str, shapes: Sequence[Shape], dtype: str, digest: str, codec: str | None = None) -> ArrayEntry:
    """Return the manifest entry of an array with rows of these shapes."""
    flat = common_shape(shapes) is None
    channels = shapes[0][2] if flat and len(shapes[0]) == 3 else None
    return ArrayEntry(file, array_shape(shapes), dtype, digest, channels, codec, ends_file(file) if codec else None)
