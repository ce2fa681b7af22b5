#!/usr/bin/env bash
# Synthetic ships as in the Airbus competition: gate -> border network on crops -> objects -> submission -> F2 score.
#
#   bash recipes/ships.sh                                # 300 + 60 images of 768x768, 70 % of them without a ship
#   N_TRAIN=60 N_TEST=20 EPOCHS=2 BORDER_EPOCHS=2 EPOCH_SIZE=80 bash recipes/ships.sh ships_small
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:-ships} runs=${RUNS:-experiments/ships} epochs=${EPOCHS:-12} size=${SIZE:-768} crop=${CROP:-256}
n_train=${N_TRAIN:-300} n_test=${N_TEST:-60} tile=${TILE:-512} arch=${ARCH:-unet_resnet18} gate=${GATE:-resnet18}

python utils/make_demo.py --kind ships --out_dir "$data" --n_train "$n_train" --n_test "$n_test" --size "$size"
python utils/stack_and_save.py --data_dir "$data"
python utils/make_folds.py --path "$data/train.csv" --n_splits 3 --stratify objects

python train_classifier.py --data_dir "$data" --experiment_dir "${runs}_empty" --folds all --arch "$gate" \
    --encoder_weights none --train_augs train_256_v1 --val_augs val_256 \
    --optimizer adam_1e-3 --scheduler cosine --batch_size 16 --n_epochs "$epochs"

run=${runs}_border_fold0 resume=(); [ -f "$run/config.json" ] && resume=(--resume)
[ -f "$run/summary.json" ] || python train_border.py --data_dir "$data" --experiment_dir "$run" --fold 0 --arch "$arch" \
    --encoder_weights none --loss boundary_bce_dice --optimizer adam_1e-3 --scheduler cosine \
    --crop "$crop" --crop_foreground .7 --only_nonempty --batch_size 8 --epoch_size "${EPOCH_SIZE:-480}" \
    --n_epochs "${BORDER_EPOCHS:-10}" "${resume[@]}"

python predict.py --data_dir "$data" --snapshot "$run" --part val --tile "$tile" --masks_fn "$run/val.npy"
python optimize_threshold.py --masks_fn "$run/val.npy" --objective objects --metric airbus
python optimize_threshold.py --masks_fn "$run/val.npy" --gate_probs "${runs}_empty_oof.npy"
python predict.py --data_dir "$data" --snapshot "$run" --gate "${runs}"_empty_fold*/ --tile "$tile" \
    --masks_fn "$run/test.npy" --fn ships --submission_dir "$run"
submission=$(ls -t "$run"/ships_*.csv | head -1)
python utils/submission.py score "$submission" --truth "$data/truth.csv" --data_dir "$data" --format airbus
python utils/look.py --masks_fn "$run/test.npy" --truth_fn "$data/truth.csv" --objects --out "$run/objects.png"
