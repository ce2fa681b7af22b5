"""Submissions of image classes: every style of sample submission, and the check."""

import numpy as np
import pytest

from utils.competition.class_submission import check_class_submission, write_class_submission
from utils.competition.submission_check import sample_in
from utils.core.errors import UserError
from utils.masks.mask_file import PredictionInfo
from utils.masks.probability_file import open_probabilities, write_probabilities

ANIMALS = ["cat", "dog"]
TAGS = ["clear", "haze", "road"]


def finish(tmp_path, array, labels, sample=None, exclusive=True, thresholds=None, ids=("a", "b", "c"), **info):
    """Write the submission of three images; return its (header, rows)."""
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    if sample:
        (data / "sample_submission.csv").write_text(sample)
    info = PredictionInfo(data_dir=str(data), exclusive=exclusive, **info)
    write_probabilities(tmp_path / "p.npy", ids, np.array(array), labels, info)
    path = write_class_submission(
        open_probabilities(tmp_path / "p.npy"),
        thresholds,
        sample_in(data) if info.part in (None, "test") else None,
        tmp_path / "submissions",
        "net",
    )
    assert path.name.startswith("net_20")
    header, *rows = path.read_text().splitlines()
    return header, rows


def test_a_sample_with_decimals_gets_the_probability_of_the_second_class(tmp_path, capsys):
    found = finish(tmp_path, [[0.25, 0.75], [1, 0], [0, 1]], ANIMALS, "id,label\nc,0.5\nb,0.5\na,0.5\n")
    assert found == ("id,label", ["c,0.9999999", "b,0.0000001", "a,0.75"])
    printed = capsys.readouterr().out
    assert "the probability of dog; ids and order as in" in printed
    assert "valid: 3 rows, 0 empty" in printed


def test_a_sample_with_names_gets_the_most_probable_class(tmp_path, capsys):
    array = [[0.25, 0.75], [0.5, 0.5], [0.1, 0.9]]
    assert finish(tmp_path, array, ANIMALS, "image,kind\na,cat\nb,cat\nc,cat\n") == (
        "image,kind",
        ["a,dog", "b,cat", "c,dog"],
    )
    assert finish(tmp_path, array, ["0", "1"], "id,label\na,0\nb,0\nc,0\n")[1] == ["a,1", "b,0", "c,1"]
    capsys.readouterr()
    finish(tmp_path, [[0.4, 0.6]] * 3, ANIMALS, "id,label\na,cat\nb,cat\nc,cat\n")
    assert "warning: label is dog for every image" in capsys.readouterr().out


def test_a_sample_with_several_words_gets_the_classes_above_their_thresholds_and_at_least_one(tmp_path):
    sample = "image_name,tags\nb,clear road\na,clear road\nc,haze\n"
    array, thresholds = [[0.3, 0.2, 0.9], [0.1, 0.2, 0.15], [0.9, 0.9, 0.25]], {"road": 0.25, "haze": 0.4, "clear": 0.2}
    found = finish(tmp_path, array, TAGS, sample, False, thresholds)
    assert found == ("image_name,tags", ["b,haze", "a,clear road", "c,clear haze"])
    assert finish(tmp_path, array, TAGS, sample, False)[1] == ["b,haze", "a,road", "c,clear haze"]
    with pytest.raises(UserError, match="no threshold for haze"):
        finish(tmp_path, array, TAGS, sample, False, {"clear": 0.5, "road": 0.5})


def test_a_sample_with_a_column_per_class_gets_every_probability_in_its_order(tmp_path):
    array = [[0.3, 0.2, 0.5], [0.1, 0.2, 1e-9], [0, 0, 1]]
    found = finish(tmp_path, array, TAGS, "id,road,clear,haze\na,0,0,0\nb,0,0,0\nc,0,0,0\n")
    assert found == ("id,road,clear,haze", ["a,0.5,0.3,0.2", "b,0.000000001,0.1,0.2", "c,1.0,0.0,0.0"])


def test_without_a_sample(tmp_path, capsys):
    array = [[0.3, 0.7], [0.9, 0.8], [0.1, 0.2]]
    assert finish(tmp_path, array, ANIMALS) == ("id,label", ["a,dog", "b,cat", "c,dog"])
    assert "ids not compared with a sample submission" in capsys.readouterr().out
    assert finish(tmp_path, array, ANIMALS, exclusive=False)[1] == ["a,dog", "b,cat dog", "c,dog"]
    assert finish(tmp_path, [[0.3], [0], [1]], ["not_empty"], exclusive=False)[1][0] == "a,0.3"
    # validation images are not in the sample
    assert finish(tmp_path, array, ANIMALS, "id,label\nx,0.5\n", part="train")[1][0] == "a,dog"


@pytest.mark.parametrize(
    ("labels", "exclusive", "sample", "words"),
    [
        (TAGS, True, "id,label\na,0.5\nb,0.5\nc,0.5\n", "one probability per image"),
        (ANIMALS, False, "id,label\na,0.5\nb,0.5\nc,0.5\n", "one probability per image"),
        (ANIMALS, True, "id,label\na,0\nb,0\nc,1\n", "expected cat, dog in its cells, found 0"),
        (
            ANIMALS,
            True,
            "id,tags\na,cat dog\nb,cat\nc,dog\n",
            r"its images have several classes \(such as cat dog\)",
        ),
        (ANIMALS, True, "id,cow,cat\na,0,0\nb,0,0\nc,0,0\n", "found columns cow, cat"),
        (ANIMALS, True, "id\na\nb\nc\n", "found columns none"),
        (
            ANIMALS,
            True,
            "id,label\na,cat\nb,cat\nd,cat\n",
            "not written, the check found: ids: 1 of the sample are missing",
        ),
    ],
)
def test_samples_that_do_not_fit(tmp_path, labels, exclusive, sample, words):
    with pytest.raises(UserError, match=words):
        finish(tmp_path, np.full((3, len(labels)), 0.5), labels, sample, exclusive)
    assert not list((tmp_path / "submissions").glob("*"))


def problems(tmp_path, text, sample, labels=ANIMALS, exclusive=True):
    (tmp_path / "sub.csv").write_text(text)
    (tmp_path / "sample.csv").write_text(sample)
    return check_class_submission(tmp_path / "sub.csv", tmp_path / "sample.csv", labels, exclusive).problems


def test_the_check_finds_each_error(tmp_path):
    names, numbers = "id,label\na,cat\nb,cat\n", "id,label\na,0.5\nb,0.5\n"
    assert problems(tmp_path, "id,label\na,cat\nb,dog\n", names) == []
    assert problems(tmp_path, "id,kind\na,cat\nb,dog\n", names) == ["header: expected id,label, found id,kind"]
    assert problems(tmp_path, "id,label\nb,cat\na,dog\n", names) == ["order: image 1 is b, in the sample it is a"]
    assert problems(tmp_path, "id,label\na,cat\na,dog\nb,cat\n", names) == ["ids: 1 rows repeat an id (such as a)"]
    assert problems(tmp_path, "id,label\na,cow\nb,\n", names) == [
        "line 2 (a): cow is not a class",
        "line 3 (b): the cell is empty",
    ]
    assert problems(tmp_path, "id,label\na,cat dog\nb,cat\n", names) == [
        "line 2 (a): expected one class, found cat dog"
    ]
    for wrong in ("1.5", "nan", "-0.1", "cat", "inf", "1e3"):
        expected = [f"line 2 (a): expected a probability in [0, 1], found {wrong}"]
        assert problems(tmp_path, f"id,label\na,{wrong}\nb,1\n", numbers) == expected
    columns = problems(tmp_path, "id,cat,dog\na,0.5,2\nb,0,1e-7\n", "id,cat,dog\na,0,0\nb,0,0\n")
    assert columns == ["line 2 (a, dog): expected a probability in [0, 1], found 2"]
    words = problems(tmp_path, "id,tags\na,cat cat\nb,cat  dog\n", "id,tags\na,cat dog\nb,cat\n", exclusive=False)
    assert [line[:31] for line in words] == ["line 2 (a): expected each class", "line 3 (b): expected each class"]


def test_an_existing_submission_is_not_replaced(tmp_path):
    for _ in range(2):
        finish(tmp_path, [[0.3, 0.7]] * 3, ANIMALS)
    assert len(list((tmp_path / "submissions").glob("net_*.csv"))) == 2
