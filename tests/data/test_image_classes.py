"""Classes of images: reading them from a csv, scores compared with scikit-learn, and files of probabilities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from utils.core.errors import UserError
from utils.core.files import write_json
from utils.data.image_classes import nonempty_class, read_classes
from utils.masks.mask_file import PredictionInfo
from utils.masks.probability_file import open_probabilities, write_probabilities
from utils.scoring.class_metrics import CLIP, auc, best_common_f2, class_scores, recall_at


def table(tmp_path, *rows, header="id,kind,fold"):
    path = tmp_path / "train_with_folds.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_one_class_per_cell(tmp_path):
    path = table(tmp_path, "a,dog,0", "b,cat,0", "c,dog,1")
    labels = read_classes(path, "kind", ["c", "b"])
    assert (labels.names, labels.exclusive) == (["cat", "dog"], True)
    assert labels.matrix.tolist() == [[0, 1], [1, 0]]
    assert labels.matrix.dtype == np.uint8
    # a fold without a cat has the same classes
    assert read_classes(path, "kind", ["c"]).names == ["cat", "dog"]


def test_class_names_that_are_numbers_are_sorted_as_numbers(tmp_path):
    path = table(tmp_path, "a,10,0", "b,9,0", "c,0,1", "d,9,1")
    assert read_classes(path, "kind", list("abcd")).names == ["0", "9", "10"]
    binary = read_classes(table(tmp_path, "a,1,0", "b,0,0"), "kind", ["a", "b"])
    assert (binary.names, binary.matrix.tolist(), binary.exclusive) == (["0", "1"], [[0, 1], [1, 0]], True)


def test_several_words_in_a_cell_are_several_classes(tmp_path):
    path = table(tmp_path, "t0,haze primary", "t1,clear", "t2,water  clear primary", header="image_name,tags")
    labels = read_classes(path, "tags", ["t0", "t1", "t2"])
    assert (labels.names, labels.exclusive) == (["clear", "haze", "primary", "water"], False)
    assert labels.matrix.tolist() == [[0, 1, 1, 0], [1, 0, 0, 0], [1, 0, 1, 1]]
    assert not read_classes(path, "tags", ["t1"]).exclusive


@pytest.mark.parametrize(
    ("rows", "column", "ids", "words"),
    [
        (["a,dog,0", "b,cat,0"], "kidn", ["a"], "no column kidn; did you mean kind?"),
        (["a,dog,0", "b,cat,0"], "kind", ["a", "x", "y"], r"no row for 2 of the 3 images \(such as x\)"),
        (
            ["a,dog,0", "b,,0", "c,cat,0"],
            "kind",
            ["a", "b"],
            r"1 images have an empty cell in column kind \(such as b\)",
        ),
        (["a,dog,0", "b,dog,0"], "kind", ["a"], "expected two or more classes, found only dog"),
        (["a,dog,0", "b,cat,0", "c,cow,1"], "kind", ["a"], "a different value for each of the 3 images"),
        (["a,dog,0", "a,cat,0"], "kind", ["a"], "two rows of a have different classes"),
    ],
)
def test_invalid_columns_are_refused(tmp_path, rows, column, ids, words):
    with pytest.raises(UserError, match=f"train_with_folds.csv: .*{words}"):
        read_classes(table(tmp_path, *rows), column, ids)


def test_nonempty_class():
    labels = nonempty_class(np.array([False, True, False]))
    assert (labels.names, labels.matrix.tolist(), labels.exclusive) == (["not_empty"], [[0], [1], [0]], False)


VALUES = st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0]) | st.floats(0, 1)
ONE = st.integers(1, 30).flatmap(
    lambda n: st.tuples(npst.arrays(np.float64, n, elements=VALUES), npst.arrays(np.bool_, n))
)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(ONE)
def test_metrics_of_one_class_equal_a_count_of_pairs(problem):
    scores, truth = problem
    pairs = [(p > n) + (p == n) / 2 for p in scores[truth] for n in scores[~truth]]
    assert auc(scores, truth) == pytest.approx(np.mean(pairs) if pairs else 0.5, abs=1e-12)
    recalls = [
        (truth & (scores >= th)).sum() / truth.sum()
        for th in scores
        if truth.any() and (truth & (scores >= th)).sum() / (scores >= th).sum() >= 0.75
    ]
    assert recall_at(scores, truth, 0.75) == max(recalls, default=0.0)


def test_metrics_of_one_class_equal_those_of_scikit_learn():
    from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

    rng = np.random.default_rng(0)
    truth = rng.random(200) < 0.4
    scores = np.clip(0.3 * truth + 0.6 * rng.random(200), 0, 1).round(2)
    found = class_scores(scores[:, None], truth[:, None].astype(np.uint8), exclusive=False)
    assert list(found) == ["auc", "accuracy", "recall", "log_loss"]
    assert found["auc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert found["accuracy"] == accuracy_score(truth, scores > 0.5)
    assert found["log_loss"] == pytest.approx(log_loss(truth, np.clip(scores, CLIP, 1 - CLIP)))


def test_recall_counts_at_exactly_the_required_precision():
    scores = np.concatenate([np.full(20, 0.9), np.full(5, 0.1)])
    truth = np.array([True] * 19 + [False] + [True] + [False] * 4)
    assert recall_at(scores, truth, 0.95) == 19 / 20  # 19 of 20 is .95 exactly
    assert recall_at(scores, truth, np.nextafter(0.95, 1)) == 0.0
    assert recall_at(scores, np.zeros(25, bool), 0.0) == 0.0


def test_the_log_loss_of_a_certain_mistake_is_limited_by_clipping():
    found = class_scores(np.array([[0.0, 1.0]]), np.array([[1, 0]], np.uint8), exclusive=True)
    assert found == {"accuracy": 0.0, "log_loss": pytest.approx(-np.log(1e-7))}


def test_metrics_of_exclusive_classes_equal_those_of_scikit_learn():
    from sklearn.metrics import log_loss

    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), 50)
    truth = rng.integers(0, 4, 50)
    found = class_scores(probabilities, np.eye(4, dtype=np.uint8)[truth], exclusive=True)
    assert found["accuracy"] == np.mean(probabilities.argmax(1) == truth)
    assert found["log_loss"] == pytest.approx(log_loss(truth, probabilities, labels=range(4)))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 6), st.integers(2, 4)).flatmap(
        lambda shape: st.tuples(
            npst.arrays(np.float64, shape, elements=VALUES), npst.arrays(np.uint8, shape, elements=st.integers(0, 1))
        )
    )
)
def test_metrics_of_several_classes_equal_those_of_scikit_learn_at_every_threshold(problem):
    from sklearn.metrics import fbeta_score

    probabilities, truths = problem
    scores = [
        fbeta_score(truths, probabilities > th, beta=2, average="samples", zero_division=1)
        for th in [0.0, *np.unique(probabilities)]
    ]
    assert best_common_f2(probabilities, truths) == pytest.approx(max(scores), abs=1e-9)
    assert list(class_scores(probabilities, truths, exclusive=False)) == ["f2", "log_loss"]


def write(tmp_path, array=((0.5, 0.25),), ids=("a",), labels=("cat", "dog"), **info):
    path = tmp_path / "out" / "probabilities.npy"
    write_probabilities(path, list(ids), np.array(array), list(labels), PredictionInfo(**info))
    return path


def test_probabilities_survive_a_round_trip(tmp_path):
    file = open_probabilities(write(tmp_path, data_dir="data", part="test"))
    assert (file.ids, file.labels, file.info) == (["a"], ["cat", "dog"], PredictionInfo("data", "test"))
    assert (file.array.dtype, file.array.tolist()) == (np.float32, [[0.5, 0.25]])
    assert sorted(path.name for path in file.path.parent.iterdir()) == ["probabilities.json", "probabilities.npy"]


def test_invalid_files_of_probabilities_are_refused(tmp_path):
    def refuse(words, **changed):
        with pytest.raises(UserError, match=words):
            open_probabilities(write(tmp_path, **changed))

    refuse(r"expected probabilities in \[0, 1\], found 0.5 to 1.5", array=[[0.5, 1.5]])
    refuse(r"expected probabilities in \[0, 1\], found -0.5 to 0.5", array=[[0.5, -0.5]])
    refuse(r"expected probabilities in \[0, 1\], found nan", array=[[0.5, np.nan]])
    refuse("image a is listed twice", array=[[0, 0], [1, 1]], ids=["a", "a"])
    path = write(tmp_path)
    write_json(path.with_suffix(".json"), {"ids": ["a", "b"], "labels": ["cat", "dog"]})
    with pytest.raises(UserError, match=r"expected 1 ids for the array of probabilities.npy, found 2"):
        open_probabilities(path)
    write_json(path.with_suffix(".json"), {"ids": ["a"]})
    with pytest.raises(UserError, match=r"expected 2 labels for the array of probabilities.npy, found no"):
        open_probabilities(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(UserError, match=r"its probabilities.json with the ids is missing"):
        open_probabilities(path)
    with pytest.raises(UserError, match="no such file"):
        open_probabilities(tmp_path / "none.npy")
    path = write(tmp_path, array=np.zeros((50, 2)), ids=map(str, range(50)))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"truncated or invalid \.npy file"):
        open_probabilities(path)
    np.save(path, np.zeros((2, 4, 4), np.float16))
    with pytest.raises(UserError, match=r"expected float32 probabilities \(images, labels\).* this is a mask file"):
        open_probabilities(path)
    with pytest.raises(UserError, match=r"ends in .npy"):
        write_probabilities(tmp_path / "probabilities.csv", ["a"], np.zeros((1, 1)), ["cat"], PredictionInfo())
    with pytest.raises(ValueError, match="shape"):
        write_probabilities(tmp_path / "probabilities.npy", ["a"], np.zeros((1, 2)), ["cat"], PredictionInfo())
