#!/usr/bin/env bash
# Train one network on several machines: run the same command on each, with the number of the machine. All machines
# need this folder, the same environment and the same packed data; machine 0 writes experiments/. If a machine fails,
# the others stop with an error message. The same command with --resume continues the run on any number of machines.
#
#   HEAD=10.0.0.1 MACHINES=2 MACHINE=0 bash recipes/many_machines.sh --data_dir data --experiment_dir experiments/a_fold0
#   HEAD=10.0.0.1 MACHINES=2 MACHINE=1 bash recipes/many_machines.sh --data_dir data --experiment_dir experiments/a_fold0
#   REHEARSE=2 bash recipes/many_machines.sh ...          # a test with two "machines" on the CPU of this one
set -uo pipefail
here=$(dirname "$0")/..
head=${HEAD:-localhost} port=${PORT:-29500} machines=${REHEARSE:-${MACHINES:?set the number of machines: MACHINES=2}}

machine() {
    torchrun --nnodes="$machines" --node_rank="$1" --nproc_per_node="${PROCESSES:-1}" \
        --master_addr="$head" --master_port="$port" "$here/train.py" "${@:2}"
}

if [ -z "${REHEARSE:-}" ]; then
    machine "${MACHINE:?set the number of this machine, counted from 0: MACHINE=0 ...}" "$@"
    exit
fi
trap 'kill $(jobs -p) 2>/dev/null' INT TERM
for number in $(seq 0 $((machines - 1))); do machine "$number" "$@" --device cpu & done
code=0
for job in $(jobs -p); do wait "$job" || code=1; done
exit $code
