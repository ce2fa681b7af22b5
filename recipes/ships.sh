#!/usr/bin/env bash
# Synthetic ships as in the Airbus competition: gate -> border network on crops -> objects -> submission -> F2 score on
# images that took no part in training and tuning. A finished training is skipped and an interrupted one resumed.
#
#   bash recipes/ships.sh                                # 300 + 60 images of 768x768, 70 % of them without a ship; an hour
#   N_TRAIN=60 N_TEST=20 GATE_MINUTES=2 MINUTES=2 bash recipes/ships.sh ships_small
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:-ships} runs=${RUNS:-experiments/ships} size=${SIZE:-768} tile=${TILE:-512}
n_train=${N_TRAIN:-300} n_test=${N_TEST:-60} gate=${runs}_empty run=${runs}_border_fold0

[ -f "$data/truth.csv" ] || python utils/make_demo.py --kind ships --out_dir "$data" --n_train "$n_train" --n_test "$n_test" --size "$size"
python utils/stack_and_save.py --data_dir "$data"
python utils/make_folds.py --path "$data/train.csv" --n_splits 3 --stratify objects

# shellcheck disable=SC2086 - flags are several words
python train_classifier.py --data_dir "$data" --experiment_dir "$gate" --folds all --minutes "${GATE_MINUTES:-12}" \
    ${GATE_FLAGS:-}

resume=(); [ -f "$run/config.json" ] && resume=(--resume)
# shellcheck disable=SC2086
[ -f "$run/summary.json" ] || python train_border.py --data_dir "$data" --experiment_dir "$run" --fold 0 \
    --minutes "${MINUTES:-30}" --only_nonempty --crop_foreground .7 ${FLAGS:-} "${resume[@]}"

python predict.py --data_dir "$data" --snapshot "$run" --part val --tile "$tile" --masks_fn "$run/val.npy"
python optimize_threshold.py --masks_fn "$run/val.npy" --objective objects --metric airbus
python optimize_threshold.py --masks_fn "$run/val.npy" --gate_probs "${gate}_oof.npy"
python predict.py --data_dir "$data" --snapshot "$run" --gate "$gate"_fold*/ --tile "$tile" \
    --masks_fn "$run/test.npy" --fn ships --submission_dir "$run"
submission=$(ls -t "$run"/ships_*.csv | head -1)
python utils/submission.py score "$submission" --truth "$data/truth.csv" --data_dir "$data" --format airbus
python utils/look.py --masks_fn "$run/test.npy" --truth_fn "$data/truth.csv" --objects --out "$run/objects.png"
