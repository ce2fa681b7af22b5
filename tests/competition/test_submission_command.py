"""Command line of utils/submission.py: the verdict of a check, the score in each format, and errors."""

import re

from helpers.masks import blobs, files_in, write_packed
from helpers.scripts import assert_refused, run_here, run_script
from helpers.sources import blob, noise, run_ok, save

from utils.core.tables import write_table
from utils.data.rle import encode
from utils.scoring.mask_metrics import iou, iout

SCRIPT = "utils/submission.py"
GOOD = "id,rle_mask\na,1 3\nb,\nc,5 2 9 1\n"
SAMPLE = "id,rle_mask\na,1 1\nb,1 1\nc,1 1\n"


def test_check_script(tmp_path):
    (tmp_path / "sub.csv").write_text(GOOD)
    (tmp_path / "sample.csv").write_text(SAMPLE)
    done = run_script(SCRIPT, "check", "sub.csv", "--sample", "sample.csv", "--shape", "3x4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "valid: 3 rows, 1 empty (33.3%)"
    (tmp_path / "sub.csv").write_text(GOOD.replace("1 3", '"[1, 3]"'))
    done = run_script(SCRIPT, "check", "sub.csv", "--sample", "sample.csv", cwd=tmp_path)
    assert_refused(done, 1, "sub.csv: not valid: 1 problems in 3 rows, 1 empty")
    assert "line 2 (a): expected numbers separated by blanks, found a printed list" in done.stdout
    assert "101x101" in done.stdout
    assert files_in(tmp_path) == ["sample.csv", "sub.csv"]


def test_check_script_reads_sizes_from_the_packed_folder(tmp_path):
    (tmp_path / "sub.csv").write_text(GOOD)
    write_packed(tmp_path / "data", {"test": (list("abc"), None, (3, 3))})
    (tmp_path / "data" / "sample_submission.csv").write_text(SAMPLE)
    done = run_here(SCRIPT, "check", "sub.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3x3, from data" in done.stdout
    assert "not checked" not in done.stdout
    done = run_here(SCRIPT, "check", "sub.csv", "--shape", "2x4", cwd=tmp_path)
    assert_refused(done, 1, "not valid")
    (tmp_path / "data" / "sample_submission.csv").write_text(SAMPLE + "d,\n")
    assert_refused(run_here(SCRIPT, "check", "sub.csv", cwd=tmp_path), 1, "not valid")


def test_without_a_sample_the_ids_are_those_of_the_packed_test_images(tmp_path):
    write_packed(tmp_path / "data", {"test": (list("abcd"), None, (3, 4))})
    (tmp_path / "sub.csv").write_text(GOOD)
    done = run_here(SCRIPT, "check", "sub.csv", cwd=tmp_path)
    assert_refused(done, 1, "sub.csv: not valid: 1 problems")
    assert "ids: 1 of the test images in data are missing (such as d)" in done.stdout
    done = run_here(SCRIPT, "check", "sub.csv", "--data_dir", "dta", cwd=tmp_path)
    assert_refused(done, 2, "--data_dir dta: no such folder")


def write_masks(path, ids, masks):
    write_table(path, {"id": ids, "rle_mask": [encode(mask) for mask in masks]})


def test_score_script(tmp_path):
    probabilities, truth = blobs(12)
    ids = [f"image{row}" for row in range(12)]
    predicted = probabilities > 0.4
    write_masks(tmp_path / "sub.csv", [*ids[::-1], "more"], [*predicted[::-1], predicted[0]])
    write_masks(tmp_path / "truth.csv", ids, truth)
    words = ("score", "sub.csv", "--truth", "truth.csv", "--shape", "31x31")
    done = run_script(SCRIPT, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = dict(re.findall(r"^(.+?)  +([\d.]+)$", done.stdout, re.MULTILINE))
    assert found == {
        "images": "12",
        "score (iout)": f"{iout(predicted, truth):.5f}",
        "all masks empty": f"{iout(0 * predicted, truth):.5f}",
        "mean IoU": f"{iou(predicted, truth):.5f}",
    }
    assert "warning" not in done.stdout
    write_masks(tmp_path / "sub.csv", ids, predicted.transpose(0, 2, 1))
    assert (
        f"if pixels are read row by row, the masks would score {iout(predicted, truth):.5f}"
        in run_here(SCRIPT, *words, cwd=tmp_path).stdout
    )


def scored(folder, sub, truth, *words):
    """Score a submission of 3x4 images; return the printed numbers by name, and the standard output."""
    (folder / "sub.csv").write_text(sub)
    (folder / "truth.csv").write_text(truth)
    words = ("score", "sub.csv", "--truth", "truth.csv", "--shape", "3x4", *words)
    done = run_here(SCRIPT, *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return dict(re.findall(r"^(.+?)  +([\d.]+)$", done.stdout, re.MULTILINE)), done.stdout


def test_score_of_objects(tmp_path):
    header, truth = "ImageId,EncodedPixels\n", "ImageId,EncodedPixels\na,1 3\na,7 2\nb,\n"
    found, _ = scored(tmp_path, header + "a,7 2\na,1 3\nb,\n", truth)
    assert (found["score (dsb2018)"], found["all masks empty"], found["mean IoU"]) == ("1.00000", "0.50000", "1.00000")
    # the first object matches at all thresholds, the second at none (IoU .5 is not greater than .50): TP = FP = FN = 1
    sub = header + "a,1 3\na,7 1\nb,\n"
    assert scored(tmp_path, sub, truth)[0]["score (dsb2018)"] == f"{(1 / 3 + 1) / 2:.5f}"
    assert scored(tmp_path, sub, truth, "--format", "airbus")[0]["score (airbus)"] == "0.75000"  # its F2 is 1/2
    assert scored(tmp_path, sub, truth, "--format", "airbus")[0]["mean IoU"] == "0.90000"
    by_id = [text.replace("a,", "a.jpg,").replace("b,", "b.jpg,") for text in (sub, truth)]
    assert scored(tmp_path, *by_id)[0]["score (airbus)"] == "0.75000"
    # the two objects are predicted as one, which matches neither, although the union is perfect
    found, _ = scored(tmp_path, header + "a,1 3 7 2\nb,\n", truth)
    assert (found["score (dsb2018)"], found["mean IoU"]) == ("0.55000", "1.00000")


def test_score_of_carvana(tmp_path):
    # 3x4 pixels numbered by row: 1 2 3 4 / 5 6 7 8 / 9 10 11 12
    header = "img,rle_mask\n"
    found, printed = scored(tmp_path, header + "a.jpg,1 4\nb.jpg,\n", header + "a.jpg,1 2\nb.jpg,\n")
    assert found["score (dice)"] == f"{(2 * 2 / 6 + 1) / 2:.5f}"
    assert found["all masks empty"] == "0.50000"
    assert "warning" not in printed
    # numbered by column, the upper row of an image has the pixels 1, 4, 7, 10
    _, printed = scored(tmp_path, header + "a.jpg,1 1 4 1 7 1 10 1\n", header + "a.jpg,1 4\n")
    assert "if pixels are read column by column, the masks would score 1.00000" in printed
    assert "this format numbers pixels left to right first" in printed
    # a truth with the columns of TGS is read by the rules of TGS, regardless of the metric
    found, _ = scored(tmp_path, header + "a,1 4\n", "id,rle_mask\na,1 1 4 1 7 1 10 1\n")
    assert found["score (dice)"] == "1.00000"


def test_check_by_the_rules_of_a_format(tmp_path):
    (tmp_path / "sub.csv").write_text("id,rle_mask\na,1 2\na,3 1\n")
    assert_refused(run_here(SCRIPT, "check", "sub.csv", "--shape", "3x4", cwd=tmp_path), 1, "1 problems in 2 rows")
    (tmp_path / "sub.csv").write_text("ImageId,EncodedPixels\na,1 2\na,4 1\nb,\n")
    done = run_here(SCRIPT, "check", "sub.csv", "--shape", "3x4", cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "valid: 3 rows of 2 images, 1 empty (50.0%)"
    (tmp_path / "sample.csv").write_text("id,rle_mask\na,1 1\nb,1 1\n")
    words = ("check", "sub.csv", "--shape", "3x4", "--sample", "sample.csv")
    done = run_here(SCRIPT, *words, cwd=tmp_path)
    assert_refused(done, 1, "not valid")
    assert "header: expected id,rle_mask, found ImageId,EncodedPixels" in done.stdout
    assert run_here(SCRIPT, *words, "--format", "dsb2018", cwd=tmp_path).returncode == 0
    done = run_here(SCRIPT, *words, "--format", "carvana", cwd=tmp_path)
    assert "header: expected img,rle_mask" in done.stdout


def test_wrong_arguments_and_files_are_refused(tmp_path):
    (tmp_path / "sub.csv").write_text(GOOD)
    (tmp_path / "bad.csv").write_text(GOOD.replace("1 3", "3 1 1 1"))
    (tmp_path / "header.csv").write_text("id,rle_mask\n")
    (tmp_path / "semicolons.csv").write_text("id;rle_mask\na;1 3\n")
    (tmp_path / "longer.csv").write_text(GOOD + "d,\n")
    (tmp_path / "both.csv").write_text("ImageId,EncodedPixels\na,1 3\na,3 1\n")
    (tmp_path / "hole.csv").write_text("ImageId,EncodedPixels\na,1 3\na,\n")
    for words, code, messages in (
        (("chekc", "sub.csv"), 2, ("did you mean check",)),
        (("check", "none.csv"), 1, ("none.csv", "no such file")),
        (("check", "."), 1, (".: expected a csv file, found a folder",)),
        (("check", "header.csv"), 1, ("header.csv: not valid: 1 problems in 0 rows",)),
        (("check", "semicolons.csv"), 1, ("semicolons.csv: expected cells separated by commas, found ;",)),
        (("check", "sub.csv", "longer.csv"), 2, ("longer.csv: expected no more values than SUB",)),
        (("check", "sub.csv", "--sample", "none.csv"), 1, ("none.csv",)),
        (("check", "sub.csv", "--shape", "101"), 2, ("--shape 101", "101x101")),
        (("check", "sub.csv", "--shape", "0x101"), 2, ("--shape 0x101",)),
        (("score", "sub.csv", "--truth", "longer.csv"), 1, ("no row for 1 of the 4", "such as d")),
        (("score", "bad.csv", "--truth", "sub.csv"), 1, ("bad.csv: a", "expected ascending starts")),
        (("score", "sub.csv", "--truth", "bad.csv"), 1, ("bad.csv: a", "expected ascending starts")),
        (("score", "both.csv", "--truth", "both.csv"), 1, ("both.csv: a: object 2: overlap", "object 1")),
        (("score", "hole.csv", "--truth", "hole.csv"), 1, ("hole.csv: a: object 2: it has no pixels",)),
    ):
        assert_refused(run_here(SCRIPT, *words, cwd=tmp_path), code, *messages)
    assert run_here(SCRIPT, cwd=tmp_path).returncode == 2
    assert run_here(SCRIPT, "score", "sub.csv", cwd=tmp_path).returncode == 2


def test_score_by_size(tmp_path):
    for name, size in (("a", (3, 4)), ("b", (3, 4)), ("c", (5, 6))):
        save(tmp_path / f"data/train/images/{name}.png", noise(1, size, 3))
        save(tmp_path / f"data/train/masks/{name}.png", blob(1, size) * 255)
    run_ok("--data_dir", tmp_path / "data", cwd=tmp_path)
    header, truth = "ImageId,EncodedPixels\n", "ImageId,EncodedPixels\na,1 3\nb,1 3\nc,1 3\n"
    words = ("--data_dir", "data", "--shape", "None")
    _, printed = scored(tmp_path, header + "a,1 3\nb,7 1\nc,1 3\n", truth, *words)
    assert "score (dsb2018)     0.66667\n" in printed
    assert "score by size: 3x4 0.5000 (2), 5x6 1.0000 (1)\n" in printed
    assert "by size" not in scored(tmp_path, header + "a,1 3\n", header + "a,1 3\n", *words)[1]
