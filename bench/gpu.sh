#!/usr/bin/env bash
# Check and measure this project on a CUDA GPU, in at most 10 minutes; installs nothing. See bench/gpu.py for the flags.
#
#   bash bench/gpu.sh                                                    # with synthetic images
#   bash bench/gpu.sh --data_dir data/salt                               # the five folds of a packed folder
#   bash bench/gpu.sh --only folds --data_dir data/salt --minutes 9      # its folds alone, with more time
set -euo pipefail
cd "$(dirname "$0")/.."
python=python3
[ ! -x .venv/bin/python ] || python=.venv/bin/python
PYTHONPATH=. exec "$python" bench/gpu.py "$@"
