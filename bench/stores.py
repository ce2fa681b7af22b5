"""Compare the compact store with containers: bytes on the disk, random images per second, and seconds to pack.

make bench-env
.venv-bench/bin/python bench/stores.py --data_dir ships        # a folder that make_demo.py --kind ships has written

Every store holds the content of the image files, except `zarr pixels` and `hdf5 pixels`, which hold compressed pixels.
Packing only writes the images here, in one process and without looking at them; reading decodes them to (H, W, 3) in
an order of its own. All are read in turn, several rounds; the reported rate is the median.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.core.cli import run
from utils.core.errors import UserError
from utils.data.compact_rows import compact_writer, open_compact
from utils.data.image_files import image_from

Read = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class Settings:
    data_dir: str = "ships"
    """folder whose images are stored."""
    n_images: int = 300
    """images to store; those of the folder are repeated."""
    rounds: int = 5
    """rounds of reading all of them."""
    debug: bool = False
    """show the traceback of an error."""


class Stored(NamedTuple):
    """A store with images in it."""

    read: Read
    seconds: float
    """Time to write it."""
    n_bytes: int


def main(settings: Settings) -> None:
    """Write all stores, read them in turn, and print a table."""
    paths = sorted(Path(settings.data_dir).rglob("*.jpg"))
    if not paths:
        raise UserError(f"--data_dir {settings.data_dir}: expected .jpg images, found none")
    contents = [paths[number % len(paths)].read_bytes() for number in range(settings.n_images)]
    source = sum(map(len, contents))
    order = np.random.default_rng(0).permutation(len(contents))
    with tempfile.TemporaryDirectory() as place:
        stores = {
            name: _stored(build, contents, Path(place) / name.replace(" ", "_")) for name, build in STORES.items()
        }
        rates: dict[str, list[float]] = {name: [] for name in stores}
        for _ in range(settings.rounds):
            for name, stored in stores.items():
                started = time.perf_counter()
                for row in order.tolist():
                    stored.read(row)
                rates[name].append(len(order) / (time.perf_counter() - started))
    print(f"{'':<14}{'bytes / files':>14}{'pack, s':>10}{'images/s':>10}   (lowest to highest)")
    for name, stored in stores.items():
        low, middle, high = min(rates[name]), statistics.median(rates[name]), max(rates[name])
        share = stored.n_bytes / source
        print(f"{name:<14}{share:>14.3f}{stored.seconds:>10.2f}{middle:>10.0f}   ({low:.0f} to {high:.0f})")


def _stored(build: Callable[[list[bytes], Path], Read], contents: list[bytes], place: Path) -> Stored:
    place.mkdir()
    started = time.perf_counter()
    read = build(contents, place)
    seconds = time.perf_counter() - started
    return Stored(read, seconds, sum(path.stat().st_size for path in place.rglob("*") if path.is_file()))


def decoded(content: bytes) -> np.ndarray:
    """Decode the content of an image file to (H, W, 3) uint8."""
    return image_from(BytesIO(content), "image", 3)


def files(contents: list[bytes], place: Path) -> Read:
    """Write a file for each image."""
    paths = [place / f"{row:06}.jpg" for row in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return lambda row: decoded(paths[row].read_bytes())


def compact(contents: list[bytes], place: Path) -> Read:
    """Write the compact store of this project."""
    shapes = [decoded(contents[0]).shape] * len(contents)
    with compact_writer(place / "images.npy", [(len(one),) for one in contents], bytes) as writer:
        writer.append([np.frombuffer(one, np.uint8) for one in contents])
    return open_compact(place / "images.npy", np.array(writer.ends), "file", shapes, "uint8").__getitem__


def raw(contents: list[bytes], place: Path) -> Read:
    """Write decoded pixels as a plain array."""
    first = decoded(contents[0])
    array = np.lib.format.open_memmap(place / "images.npy", "w+", np.uint8, (len(contents), *first.shape))
    for row, content in enumerate(contents):
        array[row] = decoded(content)
    array.flush()
    return lambda row: np.array(array[row])


def arrow(contents: list[bytes], place: Path) -> Read:
    """Write an Arrow file with a binary column, memory-mapped for reading."""
    import pyarrow as pa

    column = pa.table({"image": pa.array(contents, pa.large_binary())})
    with pa.OSFile(str(place / "images.arrow"), "wb") as sink, pa.ipc.new_file(sink, column.schema) as writer:
        writer.write_table(column)
    images = pa.ipc.open_file(pa.memory_map(str(place / "images.arrow"))).read_all()["image"]
    return lambda row: decoded(images[row].as_buffer())


def hdf5(contents: list[bytes], place: Path) -> Read:
    """Write an HDF5 file with rows of different lengths."""
    import h5py

    with h5py.File(place / "images.h5", "w") as file:
        rows = file.create_dataset("image", (len(contents),), h5py.vlen_dtype(np.uint8))
        for row, content in enumerate(contents):
            rows[row] = np.frombuffer(content, np.uint8)
    images = h5py.File(place / "images.h5", "r")["image"]
    return lambda row: decoded(images[row].tobytes())


def hdf5_pixels(contents: list[bytes], place: Path) -> Read:
    """Write an HDF5 file with one compressed chunk of pixels per image."""
    import h5py

    first = decoded(contents[0])
    with h5py.File(place / "images.h5", "w") as file:
        shape, chunks = (len(contents), *first.shape), (1, *first.shape)
        rows = file.create_dataset("image", shape, "uint8", chunks=chunks, compression="gzip", compression_opts=1)
        for row, content in enumerate(contents):
            rows[row] = decoded(content)
    images = h5py.File(place / "images.h5", "r")["image"]
    return lambda row: images[row]


def zarr_pixels(contents: list[bytes], place: Path) -> Read:
    """Write a Zarr array with one compressed chunk of pixels per image."""
    import zarr

    first = decoded(contents[0])
    shape, chunks = (len(contents), *first.shape), (1, *first.shape)
    images = zarr.create_array(store=str(place / "images.zarr"), shape=shape, chunks=chunks, dtype="uint8")
    for row, content in enumerate(contents):
        images[row] = decoded(content)
    return lambda row: images[row]


def webdataset(contents: list[bytes], place: Path) -> Read:
    """Write a shard of WebDataset, which is a tar; reading at random takes the places of its members."""
    import tarfile

    with tarfile.open(place / "images.tar", "w") as tar:
        for row, content in enumerate(contents):
            member = tarfile.TarInfo(f"{row:06}.jpg")
            member.size = len(content)
            tar.addfile(member, BytesIO(content))
    with tarfile.open(place / "images.tar") as tar:
        places = [(member.offset_data, member.size) for member in tar]
    file = open(place / "images.tar", "rb")  # noqa: SIM115 - open as long as it is read

    def read(row: int) -> np.ndarray:
        file.seek(places[row][0])
        return decoded(file.read(places[row][1]))

    return read


STORES: dict[str, Callable[[list[bytes], Path], Read]] = {
    "files": files,
    "compact": compact,
    "raw": raw,
    "arrow": arrow,
    "hdf5": hdf5,
    "webdataset": webdataset,
    "hdf5 pixels": hdf5_pixels,
    "zarr pixels": zarr_pixels,
}

if __name__ == "__main__":
    run(main, Settings)
