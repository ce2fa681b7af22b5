"""The csv files of a packed folder: copied from the source, or made; what somebody else wrote is never replaced."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.errors import UserError
from utils.files import whole_file
from utils.source_files import is_own_table
from utils.tables import write_table


def check_tables(tables: Sequence[Path], out_dir: Path, written: Mapping[str, str]) -> None:
    """See that no csv file of somebody else is in the way of `copy_tables`.

    Args:
        tables: the csv files of the source.
        out_dir: the packed folder.
        written: name -> sha256 of what the last packing copied there (what `copy_tables` returned).

    Raises:
        UserError: one is.
    """
    for path in tables:
        target = out_dir / path.name
        if target.is_file() and digest_of(target) != digest_of(path) and not is_ours(target, written):
            raise UserError(
                f"{target}: differs from {path}, which belongs to these images; move it away or name another --out_dir"
            )


def copy_tables(tables: Sequence[Path], out_dir: Path) -> dict[str, str]:
    """Copy csv files as they are; name -> sha256 of each copy. What lies in `out_dir` already is not touched."""
    written = {}
    for path in tables:
        target = out_dir / path.name
        if target.exists() and target.samefile(path):
            continue
        with whole_file(target) as part:
            part.write_bytes(path.read_bytes())
        written[path.name] = digest_of(target)
    return written


def write_own_table(
    columns: Mapping[str, Sequence[object]], tables: Sequence[Path], out_dir: Path, written: Mapping[str, str]
) -> None:
    """Write train.csv, unless the source has one or one is there that packing did not write.

    `tables` and `written` are as for `check_tables`.
    """
    target = out_dir / "train.csv"
    if target.name in [path.name for path in tables]:
        return
    if not target.exists() or is_ours(target, written):
        write_table(target, columns)


def is_ours(path: Path, written: Mapping[str, str]) -> bool:
    """Whether packing has made or copied a csv (`written` as for `check_tables`)."""
    return is_own_table(path) or written.get(path.name) == digest_of(path)


def digest_of(path: Path) -> str:
    """The sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
