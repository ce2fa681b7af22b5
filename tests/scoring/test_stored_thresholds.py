"""Results stored by optimize_threshold.py: reading, refusing invalid files, choosing if folds differ."""

from pathlib import Path

import pytest

from utils.core.errors import UserError
from utils.core.files import write_json
from utils.masks.gate import OPEN
from utils.masks.instances import InstanceRules
from utils.masks.mask_file import PredictionInfo
from utils.scoring.stored_thresholds import (
    GATE_FILE,
    OBJECTS_FILE,
    THRESHOLD_FILE,
    choose_stored,
    read_gate,
    read_instance_rules,
    read_threshold,
    unlike,
)

RULES = {"th": 0.25, "seed_th": 0.75, "min_area": 20, "fill_holes": True, "score": 0.5}


def store(folder, threshold, masks=(), n_images=10, **more):
    """Write a threshold.json to a run folder and return the folder."""
    values = {"threshold": threshold, "min_area": 0, "masks": list(masks), "n_images": n_images, **more}
    write_json(folder / THRESHOLD_FILE, values)
    return folder


def test_thresholds_are_read_back_and_invalid_files_are_refused(tmp_path):
    assert read_threshold(tmp_path) is None
    write_json(tmp_path / THRESHOLD_FILE, {"threshold": 0.25, "min_area": 20})
    assert read_threshold(tmp_path).value == (0.25, 20)
    wrong = ([], {}, {"threshold": "0.5"}, {"threshold": 2}, {"threshold": None}, {"threshold": 0.5, "min_area": -1})
    for contents in wrong:
        write_json(tmp_path / THRESHOLD_FILE, contents)
        with pytest.raises(UserError, match=r"threshold\.json: expected .* found .*; run optimize_threshold\.py again"):
            read_threshold(tmp_path)


def test_instance_rules_are_read_back_and_invalid_files_are_refused(tmp_path):
    assert read_instance_rules(tmp_path) is None
    write_json(tmp_path / OBJECTS_FILE, RULES)
    assert read_instance_rules(tmp_path).rules == InstanceRules(0.25, 0.75, 20, True)
    wrong = ({"th": "0.5"}, {"th": 2}, {"seed_th": None}, {"min_area": -1}, {"min_area": 1.5}, {"fill_holes": 1})
    for contents in ([], {}, *({**RULES, **change} for change in wrong)):
        write_json(tmp_path / OBJECTS_FILE, contents)
        with pytest.raises(UserError, match=r"objects\.json: expected"):
            read_instance_rules(tmp_path)


def test_gates_are_read_back_and_invalid_files_are_refused(tmp_path):
    assert read_gate(tmp_path) is None
    write_json(tmp_path / GATE_FILE, {"gate_threshold": 0.25, "helps": False})
    found = read_gate(tmp_path)
    assert found.threshold == 0.25
    assert "does not help significantly" in found.origin
    write_json(tmp_path / GATE_FILE, {"gate_threshold": None})
    assert read_gate(tmp_path).threshold == OPEN
    write_json(tmp_path / OBJECTS_FILE, RULES)
    assert read_gate(tmp_path, OBJECTS_FILE) is None
    write_json(tmp_path / OBJECTS_FILE, {**RULES, "gate_threshold": 0.5, "helps": True})
    assert read_gate(tmp_path, OBJECTS_FILE).origin == str(tmp_path / OBJECTS_FILE)
    for wrong in ({"gate_threshold": 2}, {"threshold": 0.5}, []):
        write_json(tmp_path / GATE_FILE, wrong)
        with pytest.raises(UserError, match=r"gate\.json: expected"):
            read_gate(tmp_path)


def test_if_folds_differ_the_result_fitted_on_all_of_them_is_used(tmp_path):
    a, b = (tmp_path / f"unet_fold{fold}" for fold in (0, 1))
    store(a, 0.3, ["x/unet_fold0/val.npy"])
    both = ["x/unet_fold0/val.npy", "x/unet_fold1/val.npy"]
    store(b, 0.4, both, n_images=5)
    taken, notes = choose_stored(read_threshold, [None, a, b])
    assert taken.threshold == 0.4
    assert notes == [
        f"using {b / THRESHOLD_FILE} (fitted on all of these runs together), which differs from {a / THRESHOLD_FILE}"
    ]


def test_if_folds_differ_the_result_fitted_on_most_images_is_used_with_a_note(tmp_path):
    runs = [store(tmp_path / f"unet_fold{fold}", th, n_images=n) for fold, th, n in ((0, 0.3, 5), (1, 0.4, 9))]
    taken, (note,) = choose_stored(read_threshold, runs)
    assert taken.threshold == 0.4
    assert "unet_fold1/threshold.json (fitted on 9 images), which differs from " in note
    assert "unet_fold0/threshold.json; run optimize_threshold.py with the validation masks of all folds" in note
    store(runs[0], 0.4)
    assert choose_stored(read_threshold, [*runs, tmp_path])[1] == []
    assert choose_stored(read_threshold, [None, tmp_path]) == (None, [])


def test_other_views_and_ensembles_are_reported(tmp_path):
    run = store(tmp_path, 0.3, tta="null_hflip", n_snapshots=1)
    stored = read_threshold(run)
    assert unlike(stored, PredictionInfo(tta="null_hflip", snapshots=("s",)), [run]) == []
    assert unlike(stored, PredictionInfo(tta="null_hflip", snapshots=("s", "t")), [run, Path("other")]) == []
    (views,) = unlike(stored, PredictionInfo(tta="null", snapshots=("s",)), [run])
    assert "fitted on masks of the views null_hflip, but these masks are of null" in views
    (means,) = unlike(stored, PredictionInfo(tta="null_hflip", snapshots=("s", "t", "u")), [run] * 3)
    assert "fitted on means over 1 snapshots of each run, but these masks are means over 3" in means
