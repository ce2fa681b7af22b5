"""Decisions before the prediction: values of flags, stored values and defaults, and their origins."""

import pytest

from utils.competition.decisions import decide_masks, instance_rules, mask_threshold
from utils.core.errors import UsageError, UserError
from utils.core.files import write_json
from utils.core.prediction_settings import RuleSettings, SubmissionSettings
from utils.masks.gate import OPEN
from utils.masks.instances import InstanceRules
from utils.masks.mask_file import PredictionInfo

RULES = {"th": 0.25, "seed_th": 0.75, "min_area": 20, "fill_holes": True}
TEST = PredictionInfo(part="test", tta="null")


def decide(runs=(), rules=None, info=TEST, folder=None, has_border=False, gate=(None, False), **submission):
    settings = SubmissionSettings(**submission)
    of_rules = rules or RuleSettings()
    return decide_masks(settings, of_rules, runs, info, folder, has_border, gate_th=gate[0], has_gate=gate[1])


def test_the_threshold_is_from_the_flag_else_the_file_else_one_half(tmp_path):
    assert mask_threshold(None, None, [None, tmp_path]) == (0.5, 0, "no threshold.json found")
    write_json(tmp_path / "threshold.json", {"threshold": 0.25, "min_area": 20})
    assert mask_threshold(None, None, [None, tmp_path]) == (0.25, 20, str(tmp_path / "threshold.json"))
    assert mask_threshold(0.0, None, [tmp_path]) == (0.0, 20, "--th")
    assert mask_threshold(None, 0, [tmp_path])[:2] == (0.25, 0)
    for th, area in ((1.5, None), (-0.1, None), (float("nan"), None), (None, -1)):
        with pytest.raises(UsageError):
            mask_threshold(th, area, [])


def test_instance_rules_are_from_flags_else_the_file_else_the_defaults(tmp_path):
    assert instance_rules(None, RuleSettings(), [None, tmp_path]) == (InstanceRules(), "no objects.json found")
    write_json(tmp_path / "objects.json", RULES)
    origin = str(tmp_path / "objects.json")
    assert instance_rules(None, RuleSettings(), [None, tmp_path]) == (InstanceRules(0.25, 0.75, 20, True), origin)
    some = instance_rules(0.0, RuleSettings(min_area=0, fill_holes=False), [tmp_path])
    assert some == (InstanceRules(0.0, 0.75, 0, False), f"--th --min_area --fill_holes, for the rest {origin}")
    every = instance_rules(0.1, RuleSettings(seed_th=0.2, min_area=3, fill_holes=True), [tmp_path])
    assert every == (InstanceRules(0.1, 0.2, 3, True), "--th --seed_th --min_area --fill_holes")
    for th, rules, flag in (
        (1.5, {}, "--th"),
        (None, {"seed_th": float("nan")}, "--seed_th"),
        (None, {"min_area": -1}, "-1"),
    ):
        with pytest.raises(UsageError, match=flag):
            instance_rules(th, RuleSettings(**rules), [tmp_path])


def test_the_gate_threshold_is_from_the_flag_else_the_file_else_one_half(tmp_path):
    assert (decide().gate_threshold, decide([tmp_path], gate=(None, True)).gate_threshold) == (None, 0.5)
    write_json(tmp_path / "gate.json", {"gate_threshold": None, "threshold": 0.75, "min_area": 3})
    found = decide([tmp_path], gate=(None, True))
    assert (found.gate_threshold, found.how.threshold, found.how.min_area) == (OPEN, 0.75, 3)
    assert "lets every image through" in found.gate_from
    assert decide([tmp_path], gate=(0.0, True)).gate_from == "--gate_th"
    assert decide([tmp_path]).how.threshold == 0.5  # without a gate, gate.json is ignored
    for value, has_gate in ((1.5, True), (0.5, False)):
        with pytest.raises(UsageError, match="--gate_th"):
            decide(gate=(value, has_gate))


def test_a_gate_fitted_together_with_instance_rules(tmp_path):
    write_json(tmp_path / "gate.json", {"gate_threshold": 0.5, "threshold": 0.75, "min_area": 0})
    write_json(tmp_path / "objects.json", {**RULES, "gate_threshold": 0.125, "helps": True})
    found = decide([tmp_path], gate=(None, True), objects=True)
    assert (found.gate_threshold, found.gate_from) == (0.125, str(tmp_path / "objects.json"))
    assert decide([tmp_path], gate=(None, True)).gate_threshold == 0.5
    assert found.notes == ()
    (note,) = decide([tmp_path], objects=True).notes
    assert "objects.json was fitted together with a gate" in note
    write_json(tmp_path / "objects.json", {**RULES, "gate_threshold": None})
    assert decide([tmp_path], objects=True).notes == ()


def test_flags_that_contradict_the_data_are_refused(tmp_path):
    (tmp_path / "sample_submission.csv").write_text("id,rle_mask\na,1 1\n")
    for submission, rules in (({"objects": True}, None), ({"label_pngs": "maps"}, None)):
        with pytest.raises(UsageError, match="has one row per image"):
            decide(folder=tmp_path, rules=rules, has_border=True, **submission)
    with pytest.raises(UsageError, match=r"--seed_th 0\.5: .* predict no border"):
        decide(rules=RuleSettings(seed_th=0.5), objects=True)
    (tmp_path / "sample_submission.csv").write_text("ImageId,EncodedPixels\na,1 1\n")
    assert decide(folder=tmp_path, objects=True).form.name == "dsb2018"


def test_invalid_files_are_refused_where_they_are_used(tmp_path):
    for name in ("threshold.json", "objects.json", "gate.json"):
        write_json(tmp_path / name, {"threshold": None})
    with pytest.raises(UserError, match=r"threshold\.json: expected"):
        decide([tmp_path])
    with pytest.raises(UserError, match=r"gate\.json: expected"):
        decide([tmp_path], gate=(None, True))
    write_json(tmp_path / "threshold.json", {"threshold": 0.5})
    with pytest.raises(UserError, match=r"objects\.json: expected"):
        decide([tmp_path], objects=True)
    assert decide([tmp_path]).how.threshold == 0.5
