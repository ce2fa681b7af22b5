"""Tiny source folders in every layout, and the arrays that packing them should give."""

import numpy as np
from PIL import Image

from helpers.masks import files_in
from helpers.scripts import run_here
from utils.core.tables import write_table
from utils.data.rle import encode

SIZE = (12, 10)
SCRIPT = "utils/stack_and_save.py"

# packing that is killed by SIGKILL when `function` is called for the n-th time
KILLED = """
import importlib, os, runpy, signal, sys
module, owner, function, n = sys.argv[1:5]
place = importlib.import_module(module)
place = getattr(place, owner) if owner else place
original, calls = getattr(place, function), []
def counting(*words, **named):
    calls.append(1)
    if len(calls) == int(n):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*words, **named)
setattr(place, function, counting)
sys.argv = ["utils/stack_and_save.py", *sys.argv[5:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_ok(*words, cwd):
    """Pack with these flags, which has to succeed; return the standard output."""
    done = run_here(SCRIPT, *words, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def contents(folder):
    """Return name -> bytes of every file in a folder."""
    return {name: (folder / name).read_bytes() for name in files_in(folder)}


def save(path, pixels):
    """Write an array (or a Pillow image) as an image file; create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path)


def noise(seed, size=SIZE, channels=None):
    """Return uint8 noise, (H, W) or (H, W, channels)."""
    shape = size if channels is None else (*size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def blob(seed, size=SIZE):
    """Return a mask with one rectangle: (H, W) uint8, 0 or 1."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, np.uint8)
    top, left = rng.integers(0, size[0] // 2), rng.integers(0, size[1] // 2)
    mask[top : top + rng.integers(2, 6), left : left + rng.integers(2, 5)] = 1
    return mask


def as_rgb(grey):
    return np.repeat(grey[..., None], 3, axis=2)


def salt(folder, train="dbac", test="zxy"):
    """Write the layout of Kaggle's archive: grey images stored as RGB, 16-bit masks, unsorted csv files."""
    images = {name: noise(ord(name)) for name in train + test}
    masks = {name: blob(ord(name)) for name in train}
    for name in train:
        save(folder / f"train/images/{name}.png", as_rgb(images[name]))
        save(folder / f"train/masks/{name}.png", masks[name].astype(np.uint16) * 65535)
    for name in test:
        save(folder / f"test/images/{name}.png", as_rgb(images[name]))
    (folder / "train/images/.hidden.png").write_bytes(b"")
    (folder / "train/images.md5").write_text("0\n")
    write_table(folder / "train.csv", {"id": list(train), "rle_mask": [encode(masks[name]) for name in train]})
    write_table(folder / "sample_submission.csv", {"id": list(test), "rle_mask": ["1 1"] * len(test)})
    write_table(folder / "depths.csv", {"id": list(train + test), "z": range(len(train + test))})
    return images, masks


def flat(folder, train="dbac", test="zxy"):
    """Write the salt data in two folders, where only the csv files tell training from test images."""
    images, masks = salt(folder, train, test)
    for name in train:
        save(folder / f"masks/{name}.png", masks[name] * 255)
    for name in train + test:
        save(folder / f"images/{name}.png", images[name])
    for path in [*sorted((folder / "train").rglob("*")), *sorted((folder / "test").rglob("*"))]:
        if path.is_file():
            path.unlink()
    for name in ("train/images", "train/masks", "train", "test/images", "test"):
        (folder / name).rmdir()
    return images, masks


def pairs(folder, suffixes=(".png", ".bmp", ".tif", ".gif")):
    """Write grey images/ and masks/ in several file formats, without a csv file."""
    images, masks = {}, {}
    for suffix in suffixes:
        name = f"picture.{suffix[1:]}"
        images[name], masks[name] = noise(len(name) + ord(suffix[1])), blob(ord(suffix[2]))
        save(folder / f"images/{name}{suffix}", images[name])
        save(folder / f"masks/{name}.PNG", masks[name] * 255)
    return images, masks


def carvana(folder):
    """Write colour images in train/*.jpg and palette masks in train_masks/*_mask.gif."""
    masks = {name: blob(place) for place, name in enumerate(("car_02", "car_01"))}
    for name, mask in masks.items():
        save(folder / f"train/{name}.jpg", noise(len(masks), channels=3))
        palette = Image.fromarray(mask).convert("P")
        palette.putpalette([0, 0, 0, 255, 255, 255])
        save(folder / f"train_masks/{name}_mask.gif", palette)
    save(folder / "test/car_09.jpg", noise(9, channels=3))
    return masks


def dsb2018(folder):
    """Write stage1_train/<id>/{images,masks}; image "b" has two objects that share 2 pixels, and an empty mask."""
    labels = {"b": np.zeros(SIZE, np.uint16), "a": np.zeros(SIZE, np.uint16)}
    labels["b"][1:4, 1:5], labels["b"][4:8, 3:9] = 1, 2
    labels["a"][5:, 2:4] = 1
    for name, label in labels.items():
        save(folder / f"stage1_train/{name}/images/{name}.png", noise(ord(name), channels=4))
        for number in np.unique(label)[1:]:
            mask = (label == number).astype(np.uint8) * 255
            if number == 2:
                mask[3, 3:5] = 255  # already taken by object 1
            save(folder / f"stage1_train/{name}/masks/object{number}.png", mask)
    save(folder / "stage1_train/b/masks/object0.png", np.zeros(SIZE, np.uint8))
    save(folder / "stage1_test/t/images/t.png", noise(3, channels=4))
    return labels


def airbus(folder):
    """Write train_v2/*.jpg, test_v2/*.jpg, and a csv file with one row per ship."""
    labels = {
        "c.jpg": np.zeros(SIZE, np.uint16),
        "a.jpg": np.zeros(SIZE, np.uint16),
        "b.jpg": np.zeros(SIZE, np.uint16),
    }
    labels["c.jpg"][:2, :3], labels["c.jpg"][4:6, 5:] = 1, 2
    labels["b.jpg"][7:9] = 1
    rows = [(name, encode(label == number)) for name, label in labels.items() for number in np.unique(label)[1:]]
    rows.insert(2, ("a.jpg", ""))
    for name in [*labels, "z.jpg", "y.jpg"]:
        save(folder / ("train_v2" if name in labels else "test_v2") / name, noise(ord(name[0]), channels=3))
    ids, cells = zip(*rows, strict=True)
    write_table(folder / "train_ship_segmentations_v2.csv", {"ImageId": ids, "EncodedPixels": cells})
    write_table(folder / "sample_submission_v2.csv", {"ImageId": ["z.jpg", "y.jpg"], "EncodedPixels": ["1 2", ""]})
    return labels


def labelled(
    folder, cells, table="train.csv", columns=("id", "label"), parts=("train", "test"), sample="cat", suffix=""
):
    """Write 32x32 colour images with classes instead of masks, and half as many test images.

    Args:
        folder: where to write.
        cells: class cell of each training image; the csv file lists the images in descending order.
        table: name of the csv file.
        columns: names of its columns.
        parts: folders of the training and the test images.
        sample: value of all cells in the sample submission.
        suffix: suffix of the ids in the csv files.
    """
    names = [f"{part}_{number}" for part, n in (("a", len(cells)), ("b", len(cells) // 2)) for number in range(n)]
    for seed, name in enumerate(names):
        save(folder / parts[name[0] == "b"] / f"{name}.png", noise(seed, (32, 32), 3))
    ids = [f"{name}{suffix}" for name in names]
    train, test = ids[: len(cells)], ids[len(cells) :]
    write_table(folder / table, dict(zip(columns, (train[::-1], cells[::-1]), strict=True)))
    name = "sample_submission_v2.csv" if "v2" in table else "sample_submission.csv"
    write_table(folder / name, dict(zip(columns, (test[1:] + test[:1], [sample] * len(test)), strict=True)))
