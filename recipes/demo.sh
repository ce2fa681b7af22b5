#!/usr/bin/env bash
# The complete workflow on a synthetic salt survey, from images to a scored submission; about 4 minutes on a laptop CPU.
#
#   bash recipes/demo.sh                        # or: make demo
#   MINUTES=8 bash recipes/demo.sh demo experiments/long_fold0
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:-demo} run=${2:-experiments/demo_fold0}
step() { printf '\n--- %s\n' "$*"; "$@"; }

rm -rf "$run"
step python utils/make_demo.py --out_dir "$data" --n_train 400 --n_test 100 --seed 0
step python utils/stack_and_save.py --data_dir "$data"
step python utils/make_folds.py --path "$data/train.csv" --n_splits 5 --stratify coverage
step python train.py --data_dir "$data" --experiment_dir "$run" --fold 0 --minutes "${MINUTES:-2.5}"
step python predict_tta.py --data_dir "$data" --snapshot "$run" --part val --masks_fn "$run/val_tta.npy"
step python optimize_threshold.py --masks_fn "$run/val_tta.npy"
step python predict_tta.py --data_dir "$data" --snapshot "$run" --masks_fn "$data/masks.npy" --submission_dir "$data/submissions"
submission=$(ls -t "$data"/submissions/*.csv | head -1)
step python utils/look.py --masks_fn "$data/masks.npy" --truth_fn "$data/truth.csv" --out "$data/demo.png"
step python utils/submission.py score "$submission" --truth "$data/truth.csv" --data_dir "$data"
