#!/usr/bin/env bash
# One training on several machines: type the same line on each, with its own number. All need this folder, the same
# environment and the same packed data; machine 0 writes experiments/. Any of them may die: the others end with a line,
# and the same command with --resume goes on, with as many machines as there are then.
#
#   HEAD=10.0.0.1 MACHINES=2 MACHINE=0 bash recipes/many_machines.sh --data_dir data --experiment_dir experiments/a_fold0
#   HEAD=10.0.0.1 MACHINES=2 MACHINE=1 bash recipes/many_machines.sh --data_dir data --experiment_dir experiments/a_fold0
#   REHEARSE=2 bash recipes/many_machines.sh ...          # two "machines" on this one, to see that it works
set -uo pipefail
here=$(dirname "$0")/..
head=${HEAD:-localhost} port=${PORT:-29500} machines=${REHEARSE:-${MACHINES:?how many? MACHINES=2 MACHINE=0 ...}}

machine() {
    torchrun --nnodes="$machines" --node_rank="$1" --nproc_per_node="${PROCESSES:-1}" \
        --master_addr="$head" --master_port="$port" "$here/train.py" "${@:2}"
}

if [ -z "${REHEARSE:-}" ]; then
    machine "${MACHINE:?the number of this machine, from 0}" "$@"
    exit
fi
trap 'kill $(jobs -p) 2>/dev/null' INT TERM
for number in $(seq 0 $((machines - 1))); do machine "$number" "$@" & done
code=0
for job in $(jobs -p); do wait "$job" || code=1; done
exit $code
