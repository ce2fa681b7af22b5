#!/usr/bin/env bash
# Train every fold with the same flags. A finished fold is skipped, an interrupted one is resumed, and one that fails
# does not stop the others. The same command can therefore be repeated until all folds are finished.
#
#   NAME=unet bash recipes/folds.sh --data_dir data --arch unet_resnet34 --n_epochs 50      # experiments/unet_fold0 ... 4
#   NAME=unet FOLDS="0 1" bash recipes/folds.sh --data_dir data --arch unet_resnet34
#   NAME=unet PROCESSES=4 bash recipes/folds.sh --data_dir data --arch unet_resnet34        # each fold on 4 GPUs
#   NAME=unet sbatch recipes/folds.slurm --data_dir data --arch unet_resnet34               # a Slurm task per fold
set -uo pipefail
trap 'exit 130' INT
trap 'exit 143' TERM
train=$(dirname "$0")/../train.py
name=${NAME:?set the name of the runs: NAME=unet bash recipes/folds.sh FLAGS OF train.py} folds=${FOLDS:-0 1 2 3 4}
launch=(python); [ "${PROCESSES:-1}" -gt 1 ] && launch=(torchrun --standalone --nproc_per_node="$PROCESSES")

failed=()
for fold in $folds; do
    run=experiments/${name}_fold$fold
    [ -f "$run/summary.json" ] && { echo "$run: finished"; continue; }
    resume=(); [ -f "$run/config.json" ] && resume=(--resume)
    "${launch[@]}" "$train" "$@" --fold "$fold" --experiment_dir "$run" "${resume[@]}" && continue
    code=$?
    [ $code -ge 128 ] && exit $code # ended by a signal: the same command resumes the run
    failed+=("$run")
done
[ ${#failed[@]} -eq 0 ] || { echo "folds.sh: failed: ${failed[*]}; see their error messages above" >&2; exit 1; }
