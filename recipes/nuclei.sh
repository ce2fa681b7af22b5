#!/usr/bin/env bash
# Nuclei (2018 Data Science Bowl, BBBC038), from the zip to a threshold and a cross-fitted score of fold 0 of 5. The zip
# holds stage1_train/<id>/images and masks; unpack one without the folder stage1_train to data/nuclei/stage1_train first.
#
#   bash recipes/nuclei.sh dsb2018_stage1_train.zip            # 20 minutes of training
#   MINUTES=60 FLAGS="--arch unet_resnet34" RUN=experiments/deep_fold0 bash recipes/nuclei.sh dsb2018_stage1_train.zip
set -euo pipefail
cd "$(dirname "$0")/.."
[ -f "${1:-}" ] || { echo "usage: bash recipes/nuclei.sh dsb2018_stage1_train.zip" >&2; exit 2; }
zip=$1 data=${DATA:-data/nuclei} run=${RUN:-experiments/nuclei_fold0}

[ -d "$data/stage1_train" ] || python -m zipfile -e "$zip" "$data"
python utils/stack_and_save.py --data_dir "$data"
python utils/make_folds.py --path "$data/train.csv" --n_splits 5 --stratify coverage

resume=(); [ -f "$run/config.json" ] && resume=(--resume)
# shellcheck disable=SC2086 - FLAGS are several words
[ -f "$run/summary.json" ] || python train.py --data_dir "$data" --experiment_dir "$run" --fold 0 \
    --minutes "${MINUTES:-20}" ${FLAGS:-} "${resume[@]}"

python predict_tta.py --data_dir "$data" --snapshot "$run" --part val --tta d4 --masks_fn "$run/val_tta.npy"
python optimize_threshold.py --masks_fn "$run/val_tta.npy"
python utils/look.py --masks_fn "$run/val_tta.npy" --out "$run/look.png"
