# Two commands matter: `make demo` and `make test`. Each first makes the environment, .venv, and only once.
PYTHON ?= python3
BIN := .venv/bin
UV := uv==0.13.8
# Python keeps what it has compiled, whatever the shell says: without that a script takes 24 s to import torch and smp, not 7.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint format lock bench-env notebook tensorboard report download-data submit build shell clean

demo: .venv/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" bash recipes/demo.sh

# Two at a time with a thread each: half the time, and no test waits for the threads of another.
test: .venv/ready lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The same rules, applied: what ruff can mend by itself, it mends.
format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The exact set of requirements.txt, every file checked by its hash; then the project itself, editable.
.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(UV)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

# What bench/throughput.py needs: the same set, and beside it the peers that it measures.
bench-env: .venv-bench/ready

.venv-bench/ready: requirements.txt bench/requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check $(UV)
	.venv-bench/bin/uv pip install --quiet --python .venv-bench/bin/python --require-hashes -r requirements.txt
	.venv-bench/bin/uv pip install --quiet --python .venv-bench/bin/python -r bench/requirements.txt
	.venv-bench/bin/uv pip install --quiet --python .venv-bench/bin/python --no-deps --no-build-isolation --editable .
	touch $@

# To look at what is here, in .venv; the same pages are services of compose.yaml.
LOGDIR ?= experiments
RUNS ?= experiments

notebook: .venv/ready
	$(BIN)/jupyter notebook notebooks/first_look.ipynb

tensorboard: .venv/ready
	$(BIN)/tensorboard --logdir $(LOGDIR)

report: .venv/ready
	$(BIN)/python report.py $(RUNS)

# Kaggle by its own client, which needs a token. In the shell's variables, so that a message may hold quotes.
COMPETITION ?= tgs-salt-identification-challenge
DATA ?= data
download-data submit: export COMPETITION := $(COMPETITION)
download-data submit: export DATA := $(DATA)

download-data: .venv/ready
	$(BIN)/python utils/contest.py download --competition "$$COMPETITION" --data_dir "$$DATA"

submit: .venv/ready
	$(BIN)/python utils/contest.py submit "$$FILE" --competition "$$COMPETITION" --data_dir "$$DATA" --message "$$MESSAGE"

# In Docker: the image, and a shell in it (GPU=1: with the GPUs), whose files belong to whoever typed it.
COMPOSE = $(or $(shell docker version >/dev/null 2>&1 && \
		{ docker compose version >/dev/null 2>&1 && echo docker compose || command -v docker-compose; }), \
	$(error no Docker engine with its compose plugin answers here; start or install it, or stay in .venv (make demo)))
build shell: export HOST_UID = $(shell id -u)
build shell: export HOST_GID = $(shell id -g)

build:
	$(COMPOSE) build shell

shell:
	$(COMPOSE) run --rm shell$(if $(GPU),-gpu)

# After a change of the dependencies in pyproject.toml.
lock: .venv/ready
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --universal --fork-strategy fewest \
		--generate-hashes --no-emit-index-url --extra dev --python-version 3.11 pyproject.toml --output-file requirements.txt

clean:
	rm -rf .venv .venv-bench .pytest_cache .hypothesis .ruff_cache *.egg-info
