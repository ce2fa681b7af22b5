"""The synthetic salt survey has the competition's exact layout, is reproducible, and is not solved by a threshold."""

import re

import numpy as np
import pytest
from helpers.masks import files_in
from helpers.scripts import assert_refused, run_here, run_script
from PIL import Image

from utils.core.tables import read_table
from utils.data.rle import decode
from utils.make_demo import Settings, main
from utils.scoring.mask_metrics import iout
from utils.synthetic.demo_files import check_folder
from utils.synthetic.salt_survey import best_threshold, draw_plan, draw_section
from utils.synthetic.seismic import BODIES, IN_IMAGE, convolve_down, grid, ricker, section, wave_period

N_TRAIN, N_TEST = 24, 8
FLAGS = ("--n_train", N_TRAIN, "--n_test", N_TEST)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """(folder, output of the command)."""
    folder = tmp_path_factory.mktemp("demo")
    done = run_script("utils/make_demo.py", "--out_dir", folder / "survey", *FLAGS, "--seed", 3, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "survey", done.stdout


def stems(folder):
    return {path.stem for path in folder.iterdir()}


def mask_of(folder, name):
    return np.asarray(Image.open(folder / "train/masks" / f"{name}.png"))


def bytes_in(folder):
    return {name: (folder / name).read_bytes() for name in files_in(folder)}


def test_the_layout_is_that_of_kaggle_plus_a_separate_truth_file(demo):
    folder, _ = demo
    assert {path.name for path in folder.iterdir()} == {
        "train",
        "test",
        "train.csv",
        "depths.csv",
        "sample_submission.csv",
        "truth.csv",
    }
    train, test = read_table(folder / "train.csv"), read_table(folder / "sample_submission.csv")
    assert list(train) == list(test) == ["id", "rle_mask"]
    assert len(train["id"]) == N_TRAIN
    assert len(test["id"]) == N_TEST
    assert set(train["id"]) == stems(folder / "train/images") == stems(folder / "train/masks")
    assert set(test["id"]) == stems(folder / "test/images")
    assert not (folder / "test/masks").exists()
    assert set(test["rle_mask"]) == {"1 1"}


def test_ids_are_ten_hex_digits_and_unique_over_both_parts(demo):
    folder, _ = demo
    train, test = (read_table(folder / name)["id"] for name in ("train.csv", "sample_submission.csv"))
    assert len({*train, *test}) == N_TRAIN + N_TEST
    assert all(re.fullmatch("[0-9a-f]{10}", name) for name in train + test)
    assert all(len(set(digits)) > 5 for digits in zip(*train, strict=True))  # every position varies
    depths = read_table(folder / "depths.csv")
    assert list(depths) == ["id", "z"]
    assert depths["id"] == train + test
    assert all(50 <= int(z) <= 950 for z in depths["z"])
    assert len(set(depths["z"])) > N_TRAIN / 2


def test_png_files_have_the_format_of_kaggle(demo):
    folder, _ = demo
    for path in [*folder.glob("train/images/*"), *folder.glob("test/images/*")]:
        image = Image.open(path)
        pixels = np.asarray(image)
        assert (image.format, image.mode, pixels.shape) == ("PNG", "RGB", (101, 101, 3))
        assert (pixels == pixels[..., :1]).all()  # grey
        assert pixels.min() == pixels.max() or (pixels.min() == 0 and pixels.max() == 255)
    for path in folder.glob("train/masks/*"):
        header = path.read_bytes()[:26]
        assert (header[24], header[25]) == (16, 0)  # bit depth 16, colour type grey
        mask = np.asarray(Image.open(path))
        assert mask.shape == (101, 101)
        assert set(np.unique(mask)) <= {0, 65_535}


def test_run_lengths_match_the_masks(demo):
    folder, _ = demo
    table = read_table(folder / "train.csv")
    for name, cell in zip(table["id"], table["rle_mask"], strict=True):
        np.testing.assert_array_equal(decode(cell, (101, 101)) == 1, mask_of(folder, name) == 65_535)
    shares = np.array([np.mean(decode(cell, (101, 101))) for cell in table["rle_mask"]])
    assert np.count_nonzero(shares == 0) == round(0.39 * N_TRAIN)
    assert 0 < shares[shares > 0].min() < 0.15
    assert 0.6 < shares.max() < 1


def test_truth_has_the_masks_of_the_test_images(demo):
    folder, _ = demo
    truth = read_table(folder / "truth.csv")
    assert list(truth) == ["id", "rle_mask"]
    assert truth["id"] == read_table(folder / "sample_submission.csv")["id"]
    kinds = draw_plan(N_TRAIN, N_TEST, 3)["test"]
    for name, cell in zip(truth["id"], truth["rle_mask"], strict=True):
        drawn, _ = draw_section(kinds[name], np.random.default_rng([3, int(name, 16)]))
        np.testing.assert_array_equal(decode(cell, (101, 101)), drawn.mask)
        np.testing.assert_array_equal(np.asarray(Image.open(folder / f"test/images/{name}.png"))[..., 0], drawn.image)
    assert 0 < truth["rle_mask"].count("") < N_TEST


def test_the_same_seed_gives_the_same_files_and_another_seed_different_ones(demo, tmp_path, capsys):
    folder, _ = demo
    main(Settings(str(tmp_path / "again"), N_TRAIN, N_TEST, seed=3))
    assert bytes_in(tmp_path / "again") == bytes_in(folder)
    main(Settings(str(tmp_path / "other"), N_TRAIN, N_TEST, seed=4))
    ours, other = bytes_in(folder), bytes_in(tmp_path / "other")
    assert {name for name in ours if name in other} == {
        "train.csv",
        "depths.csv",
        "sample_submission.csv",
        "truth.csv",
    }
    assert all(ours[name] != other[name] for name in ours if name in other)
    images = [{content for name, content in files.items() if "images" in name} for files in (ours, other)]
    assert len(images[0] & images[1]) <= 1  # both surveys may have a black image


def test_running_again_repairs_the_survey_and_keeps_other_files(demo, tmp_path, capsys):
    settings = Settings(str(tmp_path / "survey"), 3, 2)
    main(settings)
    whole = bytes_in(tmp_path / "survey")
    lost = next(tmp_path.glob("survey/train/images/*"))
    lost.unlink()
    next(tmp_path.glob("survey/test/images/*")).write_bytes(b"half")
    (tmp_path / "survey/train_images.npy").write_bytes(b"packed")
    main(settings)
    assert bytes_in(tmp_path / "survey") == whole | {"train_images.npy": b"packed"}


def test_shares_of_salt_sediments_and_blank():
    plan = draw_plan(400, 100, 0)
    for part, n in (("train", 400), ("test", 100)):
        kinds = list(plan[part].values())
        assert len(kinds) == n
        assert kinds.count("blank") == 0.02 * n
        assert kinds.count("sediments") == 0.37 * n
        assert 0.2 * n < np.count_nonzero(np.array(kinds[1:]) != kinds[:-1])  # shuffled, not sorted by kind
    assert plan["train"] != draw_plan(400, 100, 1)["train"]
    assert list(draw_plan(1, 1, 0)["train"].values()) == ["salt"]


def test_coverage_is_broad_and_never_all_or_nothing():
    shares = np.array([draw_section("salt", np.random.default_rng(seed))[0].mask.mean() for seed in range(60)])
    assert 0.01 < shares.min() < 0.08
    assert 0.8 < shares.max() < 0.97
    assert 0.2 < np.median(shares) < 0.55


def test_without_salt_there_is_no_mask_and_blank_is_one_grey_value():
    for seed in range(10):
        sediments, _ = draw_section("sediments", np.random.default_rng(seed))
        assert not sediments.mask.any()
        assert len(np.unique(sediments.image)) > 100
    blank = [draw_section("blank", np.random.default_rng(seed))[0] for seed in range(20)]
    assert all(len(np.unique(drawn.image)) == 1 and not drawn.mask.any() for drawn in blank)
    assert len({drawn.image[0, 0] for drawn in blank}) > 1


def test_salt_has_weaker_signal_than_sediments_but_the_same_mean_grey():
    drawn = [draw_section("salt", np.random.default_rng(seed))[0] for seed in range(60)]
    drawn = [one for one in drawn if 0.2 < one.mask.mean() < 0.8]
    quieter = [one.image[one.mask == 1].std() < one.image[one.mask == 0].std() for one in drawn]
    brighter = [one.image[one.mask == 1].mean() - one.image[one.mask == 0].mean() for one in drawn]
    assert np.mean(quieter) > 0.7
    assert abs(np.mean(brighter)) < 10  # of 255 grey values


@pytest.mark.parametrize("name", BODIES)
def test_every_body_shape_can_cover_any_share(name):
    z, x = grid()
    level = BODIES[name][0](np.random.default_rng(0), z, x)
    assert level.shape == (len(z), 101)
    inside = level[IN_IMAGE]
    for share in (0.02, 0.5, 0.94):
        assert np.mean(inside < np.quantile(inside, share)) == pytest.approx(share, abs=0.01)


def test_depths_are_as_in_the_competition():
    depths = [draw_section("blank", np.random.default_rng(seed))[1] for seed in range(500)]
    assert (min(depths), max(depths)) == (50, 950)
    assert np.median(depths) == pytest.approx(510, abs=30)


def test_frequency_falls_with_depth():
    periods = [[wave_period(np.random.default_rng(seed), depth) for seed in range(50)] for depth in (50, 500, 950)]
    shallow, middle, deep = np.median(periods, axis=1)
    assert 5 < shallow < middle < deep < 20
    assert np.std(periods[0]) > 0.5

    def roughness(depth):
        images = [section(np.random.default_rng(seed), depth, seed % 2 == 0).image.astype(float) for seed in range(8)]
        return np.mean([np.abs(np.diff(image, axis=0)).mean() / image.std() for image in images])

    assert roughness(50) > 1.5 * roughness(950)


def test_the_wavelet_is_a_ricker_wavelet_of_the_given_period():
    assert ricker(np.zeros(1), 8.0) == 1
    spectrum = np.abs(np.fft.rfft(ricker(np.arange(-400, 400), 8.0)))
    assert spectrum.argmax() == 100  # 800 samples / 8
    spike = np.zeros((len(grid()[0]), 101))
    spike[IN_IMAGE.start + 4 * 50, 7] = 1
    trace = convolve_down(spike, 8.0)[IN_IMAGE]
    np.testing.assert_allclose(trace[:, 7], ricker(np.arange(101) - 50, 8.0), atol=1e-6)
    np.testing.assert_allclose(np.delete(trace, 7, axis=1), 0, atol=1e-6)


def test_printed_score_is_the_best_of_all_thresholds(demo):
    folder, printed = demo
    found = re.fullmatch(
        r"all empty: (\d\.\d{3}) · best single intensity threshold \(([<>]=) (\d+)\): (\d\.\d{3})",
        printed.splitlines()[-1],
    )
    assert found, printed
    names = read_table(folder / "train.csv")["id"]
    images = np.stack([np.asarray(Image.open(folder / f"train/images/{name}.png"))[..., 0] for name in names])
    masks = np.stack([mask_of(folder, name) for name in names])
    assert float(found[1]) == pytest.approx(np.mean(~masks.any(axis=(1, 2))), abs=5e-4)
    scores = {("<=", t): iout(images <= t, masks) for t in range(256)}
    scores |= {(">=", t): iout(images >= t, masks) for t in range(256)}
    assert float(found[4]) == pytest.approx(max(scores.values()), abs=5e-4)
    assert scores[found[2], int(found[3])] == max(scores.values())
    assert float(found[4]) < float(found[1]) + 0.1


def test_a_threshold_that_separates_perfectly_is_found():
    greys, salt = np.zeros((2, 256), int), np.zeros((2, 256), int)
    greys[:, [10, 200]] = salt[:, [200]] = 50
    assert best_threshold(greys, salt) == (">= 11", 1.0)
    assert best_threshold(greys, greys - salt) == ("<= 10", 1.0)


def test_the_output_has_counts_coverage_and_the_folder(demo):
    folder, printed = demo
    for table, n, n_empty in (("train.csv", N_TRAIN, 9), ("truth.csv", N_TEST, 3)):
        shares = [decode(cell, (101, 101)).mean() for cell in read_table(folder / table)["rle_mask"] if cell]
        counts = f"{n} images, {n_empty} (37.5%) without salt"
        covers = f"covers {min(shares):.0%} to {max(shares):.0%}, median {np.median(shares):.0%}"
        assert any(table in row and counts in row and covers in row for row in printed.splitlines())
    assert str(folder) in printed


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--n_train", 0), ["--n_train 0"]),
        (("--n_test", -1), ["--n_test -1"]),
        (("--seed", -1), ["--seed -1"]),
        (("--kind", "ship"), ["--kind ship", "did you mean ships"]),
        (("--size", 256), ["--size 256", "101x101"]),
        (("--kind", "ships", "--size", 100), ["--size 100", "128"]),
        (("--out_dir", "file.txt"), ["--out_dir file.txt"]),
        (("--out_dir", "other"), ["--out_dir other", "notes.txt"]),
    ],
)
def test_invalid_flags_give_a_one_line_error_and_change_nothing(flags, words, tmp_path):
    (tmp_path / "file.txt").write_text("kept")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("kept")
    assert_refused(run_here("utils/make_demo.py", *flags, cwd=tmp_path), 2, *words)
    assert files_in(tmp_path) == ["file.txt", "other/notes.txt"]


def test_the_folder_of_another_survey_is_refused(demo, tmp_path):
    folder, _ = demo
    before = bytes_in(folder)
    for other in (("--seed", 5), ("--seed", 3, "--n_test", 9)):
        done = run_here("utils/make_demo.py", "--out_dir", folder, *FLAGS, *other, cwd=tmp_path)
        assert_refused(done, 2, "--out_dir", "images")
    assert bytes_in(folder) == before


def test_empty_folders_are_accepted(tmp_path):
    (tmp_path / "train/images").mkdir(parents=True)
    check_folder(tmp_path, ["train/images/a.png", "test/images/b.png"])
