"""Images are fitted to the input size and back, and random changes depend on the sample alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from net.augmentations import ALL_VIEWS, TRAIN_AUGS, check_names
from net.batch_augmentation import BatchChange
from net.geometry import VAL_AUGS, VAL_TRANSFORMS, Fit
from net.tta import VIEWS
from utils.core.errors import UsageError

SHAPES = [(101, 101), (128, 128), (64, 100), (30, 17), (256, 256), (202, 202), (300, 200)]


def picture(shape, channels=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, channels), dtype=np.uint8)


def blob(shape):
    rows, columns = np.indices(shape)
    inside = (rows - shape[0] * 0.4) ** 2 + (columns - shape[1] * 0.3) ** 2 < (min(shape) * 0.25) ** 2
    return inside.astype(np.uint8)[..., None]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.tuples(st.integers(1, 256), st.integers(1, 256)), st.sampled_from(["val_128", "val_256"]))
def test_crop_is_the_exact_inverse_where_nothing_is_shrunk(shape, name):
    aug = VAL_AUGS[name]
    if max(shape) > aug.size:
        return
    mask = (picture(shape) > 127).astype(np.uint8)
    fit = aug(shape)
    seen = fit.apply(mask, nearest=True)
    assert seen.shape == (aug.size, aug.size, 1)
    back = fit.invert(torch.from_numpy(seen[None, None, ..., 0]).float())
    assert np.array_equal(back[0, 0].numpy(), mask[..., 0])


def test_padding_alone_leaves_the_image_untouched_and_reflects_it():
    image = picture((101, 101))
    seen = VAL_AUGS["val_128"]((101, 101)).apply(image)
    assert np.array_equal(seen[13:114, 13:114], image)
    assert np.array_equal(seen[12, 13:114], image[1])  # the edge itself is not repeated
    assert np.array_equal(seen[13:114, 114], image[:, 99])


def test_an_image_is_enlarged_by_the_largest_whole_factor_and_shrunk_only_if_larger():
    sizes = {shape: Fit.integer_factor(shape, 256) for shape in [(101, 101), (256, 256), (60, 100), (512, 256)]}
    found = {shape: (fit.height, fit.width) for shape, fit in sizes.items()}
    expected = {(101, 101): (202, 202), (256, 256): (256, 256), (60, 100): (120, 200), (512, 256): (256, 128)}
    assert found == expected


@pytest.mark.parametrize("transform", VAL_TRANSFORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_transform_brings_a_blob_back_to_its_place(transform, shape):
    fit = VAL_AUGS[VAL_TRANSFORMS[transform]](shape)
    mask = blob(shape)
    back = fit.invert(torch.from_numpy(fit.apply(mask, nearest=True)[None, None, ..., 0]).float())[0, 0].numpy() > 0.5
    assert back.shape == shape
    overlap = (back & (mask[..., 0] > 0)).sum() / (back | (mask[..., 0] > 0)).sum()
    assert overlap > 0.9


@pytest.mark.parametrize("name", TRAIN_AUGS)
@pytest.mark.parametrize(("shape", "channels"), [((101, 101), 1), ((60, 90), 3), ((300, 260), 3)])
def test_every_training_augmentation_takes_any_size_and_moves_image_and_mask_together(name, shape, channels):
    aug = TRAIN_AUGS[name]
    change, mask = aug.alone(), blob(shape)
    image = np.repeat(mask * 160 + 40, channels, axis=2).astype(np.uint8)
    for seed in range(12):
        seen, target = change(image, mask, [seed])
        assert seen.shape == (aug.size, aug.size, channels)
        assert seen.dtype == target.dtype == np.uint8
        assert set(np.unique(target)) <= {0, 1}
        bright = seen[..., 0] > (seen[..., 0].min() / 2 + seen[..., 0].max() / 2)
        inside, found = target[..., 0] > 0, [bright, ~bright] if aug.batch and aug.batch.inverted else [bright]
        assert max((one & inside).sum() / max((one | inside).sum(), 1) for one in found) > 0.85


@pytest.mark.parametrize("name", TRAIN_AUGS)
def test_chance_is_decided_by_the_seed_words_alone(name):
    image, mask = picture((101, 101)), blob((101, 101))
    one, other = TRAIN_AUGS[name].alone(), TRAIN_AUGS[name].alone()
    other(image, mask, [9, 9, 9])  # what came before does not matter
    first = [one(image, mask, [4545, epoch, 7])[0] for epoch in range(6)]
    again = [other(image, mask, [4545, epoch, 7])[0] for epoch in range(6)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({a.tobytes() for a in first}) > 3  # and another epoch is another picture


def test_impossible_sets_are_refused_with_the_fitting_name():
    check_names("train_128_v1", "val_128_resize", "resize_from_any")
    check_names("train_128_v1", "val_128_resize", None)
    with pytest.raises(UsageError, match=r"--val_transforms crop_from_128 .* use crop_resize_from_256"):
        check_names("train_256_v1", "val_256", "crop_from_128")
    with pytest.raises(UsageError, match=r"--train_augs train_128_v1 .* use train_256_v1"):
        check_names("train_128_v1", "val_256", "crop_resize_from_256")
    with pytest.raises(UsageError, match="did you mean train_128_v1"):
        check_names("train_128_v11", "val_128", "crop_from_128")


@pytest.mark.parametrize("name", [name for name in TRAIN_AUGS if not name.startswith("stained")])  # may be inverted
def test_a_network_sees_the_views_that_its_augmentation_promises(name):
    """The brightest corner shows how an image was turned; only d4 turns it by quarters."""
    image = np.full((101, 101, 1), 60, np.uint8)
    image[:50, :50] = 250
    image[50:, :50] = 170
    vary, seen = TRAIN_AUGS[name].alone(), set()
    for seed in range(60):
        one = vary(image, None, [seed])[0][..., 0].astype(float)
        half = len(one) // 2
        parts = {
            (i, j): one[i * half : (i + 1) * half, j * half : (j + 1) * half].mean() for i in (0, 1) for j in (0, 1)
        }
        first, second = sorted(parts, key=parts.get)[:-3:-1]
        seen.add((first, second))
    assert len(seen) == len(TRAIN_AUGS[name].views)


def test_mirroring_takes_turns_so_that_no_image_is_seen_the_same_way_twice_in_a_row():
    mirrored = BatchChange(scale=0, shift=0, rotation=0, contrast=0, brightness=0)
    image = torch.from_numpy(picture((8, 8))).permute(2, 0, 1)[None]
    first_passes = set()
    for row in range(20):
        numbers = [torch.from_numpy(mirrored.draw(1, turn, row))[None] for turn in range(4)]
        seen = [mirrored.apply(image, image > 127, one)[0] for one in numbers]
        assert torch.equal(seen[0], seen[2])
        assert torch.equal(seen[1], seen[3])
        assert {torch.equal(one, image.float()) for one in seen[:2]} == {True, False}
        assert torch.equal(seen[0].flip(3), seen[1])
        first_passes.add(torch.equal(seen[0], image.float()))
    assert first_passes == {True, False}


def test_all_eight_symmetries_occur_in_eight_passes():
    turned = BatchChange(all_symmetries=True, scale=0, shift=0, rotation=0, contrast=0, brightness=0)
    image = torch.from_numpy(picture((8, 8))).permute(2, 0, 1)[None]
    seen = {turned.apply(image, image > 127, torch.from_numpy(turned.draw(1, turn, 5))[None])[0] for turn in range(8)}
    views = [VIEWS[name].see(image.float()) for name in ALL_VIEWS]
    assert all(sum(torch.allclose(one, view, atol=1e-2) for one in seen) == 1 for view in views)


def test_a_batch_changes_each_sample_as_if_it_were_alone():
    change, rng = BatchChange(), np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (5, 3, 24, 24), dtype=np.uint8))
    targets = (images[:, :1] > 127).to(torch.uint8)
    numbers = torch.from_numpy(np.stack([change.draw(1, 0, row) for row in range(5)]))
    together = change.apply(images, targets, numbers)
    for row in range(5):
        alone = change.apply(images[row : row + 1], targets[row : row + 1], numbers[row : row + 1])
        assert torch.allclose(together[0][row], alone[0][0], atol=1e-3)
        assert torch.equal(together[1][row], alone[1][0])
    assert together[0].min() >= 0
    assert together[0].max() <= 255
    classes = torch.ones(5, 2, dtype=torch.uint8)
    assert torch.equal(change.apply(images, classes, numbers)[1], classes)


def test_the_strength_widens_the_ranges_and_keeps_the_mirror_images():
    changes = [BatchChange().times(strength) for strength in (0, 1, 2)]
    still, usual, strong = (np.stack([one.draw(1, 0, row) for row in range(200)]) for one in changes)
    assert np.array_equal(usual[0], BatchChange().draw(1, 0, 0))
    assert np.array_equal(still[:, 1:8], np.tile(np.float32([0, 0, 0, 1, 0, 1, 0]), (200, 1)))
    assert set(still[:, 0]) == {-1, 1}
    assert np.array_equal(np.sign(strong[:, 0]), still[:, 0])
    assert strong[:, 2] == pytest.approx(2 * usual[:, 2])
    assert strong[:, 6] - 1 == pytest.approx(2 * (usual[:, 6] - 1), abs=1e-5)
    assert strong[:, 7] == pytest.approx(2 * usual[:, 7])


def test_stains_keep_the_ground_and_invert_a_share_of_the_samples():
    still = {"scale": 0, "shift": 0, "rotation": 0, "contrast": 0, "brightness": 0}
    change = BatchChange(**still, tint=0.3, inverted=0.25)
    image = torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)
    image[..., 12:] = 100  # most pixels are white
    image, target = image.expand(400, -1, -1, -1), torch.zeros(400, 1, 16, 16, dtype=torch.uint8)
    numbers = torch.from_numpy(np.stack([change.draw(1, turn % 2, turn) for turn in range(400)]))
    seen = change.apply(image, target, numbers)[0]
    light, dark = seen.amax((2, 3)), seen.amin((2, 3))
    inverted = dark[:, 0] == 0
    assert 70 <= inverted.sum() <= 130
    assert (light[~inverted] == 255).all()
    stain = dark[~inverted]
    assert 255 - 155 * 1.3 <= stain.min() < 70
    assert 130 < stain.max() <= 255 - 155 * 0.7 + 0.1
    assert (stain.std(1) > 1).float().mean() > 0.9  # each colour has a gain of its own


@pytest.mark.parametrize(("ground", "objects"), [(20, 220), (230, 30)])
def test_objects_are_dimmed_towards_the_ground_in_half_of_the_samples(ground, objects):
    still = {"scale": 0, "shift": 0, "rotation": 0, "contrast": 0, "brightness": 0}
    change = BatchChange(**still, tint=1e-6, dimmed=4)
    image = torch.full((1, 3, 16, 16), ground, dtype=torch.uint8)
    image[..., 12:] = objects
    image, target = image.expand(400, -1, -1, -1), torch.zeros(400, 1, 16, 16, dtype=torch.uint8)
    numbers = torch.from_numpy(np.stack([change.draw(1, turn, turn) for turn in range(400)]))
    seen = change.apply(image, target, numbers)[0]
    ends = torch.stack([seen[:, :, 0, 0], seen[:, :, 0, -1]]).sort(0).values  # an image may be mirrored
    assert (ends[0 if ground < objects else 1] - ground).abs().max() < 1e-3
    left = (ends[1] - ends[0])[:, 0] / abs(objects - ground)
    assert 0.25 - 1e-3 <= left.min() < 0.27
    assert 160 <= (left > 0.999).sum() <= 240


def test_wide_ranges_change_scale_and_proportions():
    change, sizes = BatchChange(scale=0.6, aspect=0.2), []
    for row in range(200):
        matrix = change.draw(1, 0, row)[:6].reshape(2, 3)[:, :2]
        sizes.append(1 / np.linalg.svd(matrix)[1])
    areas, proportions = np.sqrt(np.prod(sizes, 1)), np.array(sizes)[:, 1] / np.array(sizes)[:, 0]
    assert 1 / 1.6 <= areas.min() < 0.7
    assert 1.45 < areas.max() <= 1.6
    assert 1.15 < proportions.max() <= 1.2001
