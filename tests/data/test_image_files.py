"""Single image files: reading images and masks in every mode, and resizing them."""

import numpy as np
import pytest
from helpers.scripts import assert_refused, run_here, succeed
from helpers.sources import SIZE, as_rgb, blob, noise, save
from PIL import Image

from utils.data.image_files import (
    BrokenImage,
    ColourFound,
    image_from,
    image_size,
    is_grey,
    read_mask,
    resize_image,
    resize_mask,
)
from utils.data.packed_data import read_manifest


def test_masks_are_cut_at_half_of_the_range(tmp_path):
    steps = np.array([[0, 127, 128, 255]], np.uint8)
    save(tmp_path / "8.png", steps)
    save(tmp_path / "16.png", np.array([[0, 32767, 32768, 65535]], np.uint16))
    save(tmp_path / "colour.png", np.stack([steps, steps // 4, steps // 8], axis=-1))
    for name in ("8.png", "16.png", "colour.png"):
        mask, flaws = read_mask(str(tmp_path / name))
        assert mask.tolist() == [[0, 0, 1, 1]], name
        assert mask.dtype == np.uint8
        assert flaws == ["masks_not_binary"], name
    save(tmp_path / "alpha.png", np.dstack([as_rgb(steps), np.full_like(steps, 255)]))
    assert read_mask(str(tmp_path / "alpha.png"))[0].tolist() == [[0, 0, 1, 1]], "alpha is ignored"
    save(tmp_path / "only_alpha.png", np.dstack([np.zeros((1, 4, 3), np.uint8), steps]))
    with pytest.raises(BrokenImage, match="found it in the alpha channel; save it as grey"):
        read_mask(str(tmp_path / "only_alpha.png"))
    one = blob(2)
    palette = Image.fromarray(one * 3).convert("P")
    palette.putpalette([10, 0, 0] * 3 + [0, 0, 200])
    for picture, name in ((one, "01.png"), (Image.fromarray(one * 255).convert("1"), "1bit.png"), (palette, "p.gif")):
        save(tmp_path / name, picture)
        mask, flaws = read_mask(str(tmp_path / name))
        assert np.array_equal(mask, one), name
        assert flaws == [], name
    save(tmp_path / "dark.png", one * 90)
    mask, flaws = read_mask(str(tmp_path / "dark.png"))
    assert np.array_equal(mask, one)
    assert flaws == ["masks_too_dark"]
    classes = np.array([[0, 1, 2, 3]], np.uint8)
    save(tmp_path / "classes.png", classes)
    assert read_mask(str(tmp_path / "classes.png"))[0].tolist() == [[0, 1, 1, 1]]
    save(tmp_path / "trimap.png", classes[:, 1:])
    with pytest.raises(BrokenImage, match=r"0 for the background, found values from 1 to 3; save it with 0 and 255"):
        read_mask(str(tmp_path / "trimap.png"))


def test_rotations_by_exif_and_dark_16_bit_images_are_counted(tmp_path):
    for place, values in (("a", noise(1)), ("b", noise(2).astype(np.uint16)), ("c", noise(3).astype(np.uint16) * 256)):
        save(tmp_path / f"images/{place}.png", values)
        save(tmp_path / f"masks/{place}.png", blob(1))
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(noise(4)).save(tmp_path / "images/d.jpg", exif=exif)
    save(tmp_path / "masks/d.png", blob(1))
    said = succeed("utils/stack_and_save.py", "--data_dir", tmp_path, "--out_dir", tmp_path / "packed")
    found = read_manifest(tmp_path / "packed").report["train"]
    assert found["examples"]["exif_rotations"] == ["d"]
    assert found["examples"]["dark_16_bit_images"] == ["b"]
    assert "(ignored: pixels are used as they are stored, and masks have to fit those)" in said
    save(tmp_path / "masks/d.png", blob(1).T)
    done = run_here("utils/stack_and_save.py", "--data_dir", tmp_path, "--out_dir", tmp_path / "packed")
    assert_refused(done, 1, "masks/d.png: expected a mask of 12x10", "the EXIF rotation of the image is ignored")


@pytest.mark.filterwarnings("error")
def test_large_images_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # where Pillow suspects an attack
    save(tmp_path / "large.png", noise(1))
    assert np.array_equal(image_from(str(tmp_path / "large.png"), "large.png", 1)[..., 0], noise(1))


@pytest.mark.filterwarnings("error")
def test_images_of_every_mode_are_read(tmp_path):
    grey, colour = noise(1), noise(2, channels=3)
    save(tmp_path / "16.png", grey.astype(np.uint16) * 256 + 3)
    save(tmp_path / "alpha.png", np.dstack([colour, noise(3)]))
    save(tmp_path / "grey_alpha.png", Image.fromarray(np.dstack([grey, noise(3)]), mode="LA"))
    palette = Image.fromarray(np.arange(120, dtype=np.uint8).reshape(SIZE)).convert("P")
    palette.putpalette(colour.reshape(-1).tolist())
    palette.save(tmp_path / "p.png", transparency=bytes(range(120)))
    for name, expected, grey_one in (
        ("16.png", as_rgb(grey), True),
        ("alpha.png", colour, False),
        ("grey_alpha.png", as_rgb(grey), True),
        ("p.png", colour, False),  # Pillow warns about some conversions of it
    ):
        path = str(tmp_path / name)
        assert np.array_equal(image_from(path, name, 3), expected), name
        assert np.array_equal(image_from(path, name, 1), expected[..., :1]), name
        assert (image_size(path), is_grey(path)) == (SIZE, grey_one), name
        if grey_one:
            image_from(path, name, 1, strict=True)
        else:
            with pytest.raises(ColourFound):
                image_from(path, name, 1, strict=True)


def test_resizing():
    ramp = np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[None], 30, axis=0)[..., None]
    spikes = np.tile(np.array([0, 0, 90], np.uint8), (30, 20))[..., None]
    small = resize_image(spikes, (15, 20))
    assert small.shape == (15, 20, 1)
    assert (small == 30).all(), "the mean over each area"
    assert resize_image(ramp, (30, 120))[0, 1:6, 0].tolist() == [1, 3, 5, 7, 9], "between the values 0, 4, 8"
    labels = np.arange(0, 2500, 100, dtype=np.uint16).reshape(5, 5) + 60_000
    middle = resize_mask(labels, (1, 1))
    assert middle.dtype == np.uint16
    assert middle.tolist() == [[61_200]], "the pixel in the middle"
    assert np.array_equal(np.unique(resize_mask(labels, (9, 9))), np.unique(labels))
