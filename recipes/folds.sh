#!/usr/bin/env bash
# Train every fold with the same flags. A fold that is finished is skipped, one that was interrupted goes on, and one that
# fails does not keep the others from their turn; so the same command may be typed again until all are there.
#
#   NAME=unet bash recipes/folds.sh --data_dir data --arch unet_resnet34 --n_epochs 50      # experiments/unet_fold0 ... 4
#   NAME=unet FOLDS="0 1" bash recipes/folds.sh --data_dir data --arch unet_resnet34
#   NAME=unet PROCESSES=4 bash recipes/folds.sh --data_dir data --arch unet_resnet34        # each fold on 4 GPUs
#   NAME=unet sbatch recipes/folds.slurm --data_dir data --arch unet_resnet34               # a Slurm array, a task a fold
set -uo pipefail
trap 'exit 130' INT
trap 'exit 143' TERM
train=$(dirname "$0")/../train.py
name=${NAME:?give the runs a name: NAME=unet bash recipes/folds.sh FLAGS OF train.py} folds=${FOLDS:-0 1 2 3 4}
launch=(python); [ "${PROCESSES:-1}" -gt 1 ] && launch=(torchrun --standalone --nproc_per_node="$PROCESSES")

failed=()
for fold in $folds; do
    run=experiments/${name}_fold$fold
    [ -f "$run/summary.json" ] && { echo "$run: finished"; continue; }
    resume=(); [ -f "$run/config.json" ] && resume=(--resume)
    "${launch[@]}" "$train" "$@" --fold "$fold" --experiment_dir "$run" "${resume[@]}" && continue
    code=$?
    [ $code -ge 128 ] && exit $code # stopped from outside: the same command goes on
    failed+=("$run")
done
[ ${#failed[@]} -eq 0 ] || { echo "folds.sh: failed: ${failed[*]}; their last lines above say why" >&2; exit 1; }
