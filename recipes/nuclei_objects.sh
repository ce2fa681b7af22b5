#!/usr/bin/env bash
# Nuclei (2018 Data Science Bowl, BBBC038) as objects: a border network with watershed, compared on request with a mask
# network with connected components and with Mask R-CNN. All are trained and tuned on four fifths of the images, and
# scored by the competition's rule on the fifth that was held out. recipes/nuclei.sh describes the zip.
#
#   bash recipes/nuclei_objects.sh dsb2018_stage1_train.zip              # border network: 25 minutes of training
#   SIZE=256x256 MINUTES=20 NETS="border mask" RCNN="small resnet50" bash recipes/nuclei_objects.sh dsb2018_stage1_train.zip
set -euo pipefail
cd "$(dirname "$0")/.."
[ -f "${1:-}" ] || { echo "usage: bash recipes/nuclei_objects.sh dsb2018_stage1_train.zip" >&2; exit 2; }
zip=$1 all=${DATA:-data/nuclei} held=${HELD:-data/nuclei_held} runs=${RUNS:-experiments/nuclei}
nets=${NETS:-border} rcnn=${RCNN:-} minutes=${MINUTES:-25}

[ -d "$all/stage1_train" ] || python -m zipfile -e "$zip" "$all"
# images keep their nine sizes unless SIZE is set
python utils/stack_and_save.py --data_dir "$all" ${SIZE:+--size "$SIZE"}
python utils/make_folds.py --path "$all/train.csv" --n_splits 5 --stratify background+objects
python utils/hold_out.py --data_dir "$all" --fold 4 --out_dir "$held"

for net in $nets; do
    run=${runs}_$net script=train.py
    [ "$net" = border ] && script=train_border.py
    resume=(); [ -f "$run/config.json" ] && resume=(--resume)
    # shellcheck disable=SC2086 - FLAGS are several words
    [ -f "$run/summary.json" ] || python $script --data_dir "$held" --experiment_dir "$run" --fold 0 \
        --minutes "$minutes" ${FLAGS:-} "${resume[@]}"

    python predict_tta.py --data_dir "$held" --snapshot "$run" --part val --tta d4 --masks_fn "$run/val_tta.npy"
    python optimize_threshold.py --masks_fn "$run/val_tta.npy" --objective objects
    rm -f "$run"/objects_*.csv
    python predict_tta.py --data_dir "$held" --snapshot "$run" --tta d4 --objects --masks_fn "$run/test.npy" \
        --fn objects --submission_dir "$run"
    python utils/look.py --masks_fn "$run/test.npy" --truth_fn "$held/truth.csv" --objects --out "$run/objects.png"
done
for model in $rcnn; do
    run=${runs}_rcnn_$model
    [ -f "$run/summary.json" ] || python bench/mask_rcnn.py --data_dir "$held" --fold 0 --model "$model" \
        --minutes "$minutes" --out "$run"
done
for csv in "${runs}"_*/objects_*.csv "${runs}"_rcnn_*/test_submission.csv; do
    [ -f "$csv" ] || continue
    echo "--- $csv"
    python utils/submission.py score "$csv" --truth "$held/truth.csv" --data_dir "$held" --format dsb2018
done
