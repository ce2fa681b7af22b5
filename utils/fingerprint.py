"""Is a source packed already? A digest of its files, and the manifest that remembers it."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from utils.errors import UserError
from utils.layouts import Source
from utils.source_files import is_own_table, pictures_in
from utils.stack import FORMAT, manifest_if_any, open_stack


def fingerprint(source: Source, size: tuple[int, int] | None) -> str:
    """A digest of what would be packed and how: names, sizes and times of the files, layout and size."""
    digest = hashlib.sha256(f"{FORMAT} {source.layout} {size}\n".encode())
    for path in _files(source):
        status = os.stat(path)
        name = path.removeprefix(source.folder).lstrip("/")
        digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def is_packed(out_dir: Path, mark: str) -> bool:
    """Whether `out_dir` holds, whole, what a source with the fingerprint `mark` is packed into."""
    manifest = manifest_if_any(out_dir)
    if manifest.get("fingerprint") != mark:
        return False
    if not all((out_dir / name).is_file() for name in ("train.csv", *manifest["tables"])):
        return False
    try:
        for part in manifest["parts"]:
            open_stack(out_dir, part)
    except UserError:
        return False
    return True


def _files(source: Source) -> Iterator[str]:
    """Every file that packing reads."""
    for items in source.parts.values():
        for item in items:
            yield item.image
            if item.mask:
                yield item.mask
            if item.objects:
                yield from pictures_in(item.objects).values()
    for table in dict.fromkeys([*source.tables, source.run_length_table, source.label_table]):
        if table and table.is_file() and not is_own_table(table):
            yield str(table)
