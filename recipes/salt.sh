#!/usr/bin/env bash
# The salt competition, from Kaggle's folder to one submission: train every fold, find one threshold, and predict the
# mean of all folds. A finished fold is skipped and an interrupted one is resumed, so the same command can be repeated.
# Other flags need another NAME, because a finished fold of that name is not trained again. PACKED is a folder for the
# packed arrays, if they should not lie next to Kaggle's files.
#
#   bash recipes/salt.sh data                                             # 5 folds, 12 minutes each
#   FOLDS="0 1" MINUTES=7 bash recipes/salt.sh data
#   NAME=wide MINUTES=90 FLAGS="--arch wide_resnet_se --encoder_weights imagenet" bash recipes/salt.sh data
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:-data} name=${NAME:-salt} folds=${FOLDS:-0 1 2 3 4}

python utils/stack_and_save.py --data_dir "$data" ${PACKED:+--out_dir "$PACKED"}
data=${PACKED:-$data}
[ -f "$data/train_with_folds.csv" ] || python utils/make_folds.py --path "$data/train.csv" --n_splits 5 --stratify coverage

# shellcheck disable=SC2086 - FLAGS are several words
NAME=$name FOLDS=$folds bash recipes/folds.sh --data_dir "$data" --minutes "${MINUTES:-12}" --keep 2 ${FLAGS:-}

runs=() masks=()
for fold in $folds; do
    run=experiments/${name}_fold$fold
    python predict_tta.py --data_dir "$data" --snapshot "$run" --part val --masks_fn "$run/val_tta.npy"
    runs+=("$run") masks+=("$run/val_tta.npy")
done

python optimize_threshold.py --masks_fn "${masks[@]}"
python predict_tta.py --data_dir "$data" --snapshot "${runs[@]}" --masks_fn "experiments/${name}_test.npy" --fn "$name"
