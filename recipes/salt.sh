#!/usr/bin/env bash
# The salt competition, from Kaggle's folder to one submission: train every fold, find one threshold, and predict the
# mean of all folds. A finished fold is skipped and an interrupted one is resumed, so the same command can be repeated.
# Other flags need another NAME, because a finished fold of that name is not trained again. PACKED is a folder for the
# packed arrays, if they should not lie next to Kaggle's files.
#
#   bash recipes/salt.sh data                                             # 5 folds of a small U-Net
#   FOLDS="0 1" EPOCHS=12 bash recipes/salt.sh data                       # a first result in an evening
#   NAME=wide ARCH=wide_resnet_se WEIGHTS=imagenet LOSS=bce_lovasz EPOCHS=100 bash recipes/salt.sh data
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:-data} name=${NAME:-salt} folds=${FOLDS:-0 1 2 3 4}
arch=${ARCH:-unet_resnet18} weights=${WEIGHTS:-none} loss=${LOSS:-bce_lovasz} epochs=${EPOCHS:-50}

python utils/stack_and_save.py --data_dir "$data" ${PACKED:+--out_dir "$PACKED"}
data=${PACKED:-$data}
[ -f "$data/train_with_folds.csv" ] || python utils/make_folds.py --path "$data/train.csv" --n_splits 5 --stratify coverage

NAME=$name FOLDS=$folds bash recipes/folds.sh --data_dir "$data" --arch "$arch" --encoder_weights "$weights" \
    --loss "$loss" --optimizer adam_1e-3 --scheduler cosine --n_epochs "$epochs" --keep 2

runs=() masks=()
for fold in $folds; do
    run=experiments/${name}_fold$fold
    python predict_tta.py --data_dir "$data" --snapshot "$run" --part val --masks_fn "$run/val_tta.npy"
    runs+=("$run") masks+=("$run/val_tta.npy")
done

python optimize_threshold.py --masks_fn "${masks[@]}"
python predict_tta.py --data_dir "$data" --snapshot "${runs[@]}" --masks_fn "experiments/${name}_test.npy" --fn "$name"
