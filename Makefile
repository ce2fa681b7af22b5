# The main targets are `make demo` and `make test`. The first target to run creates the environment in .venv.
PYTHON ?= python3
BIN := .venv/bin
UV := uv==0.13.8
CRF := pydensecrf2==1.1
# Python keeps its bytecode even if the shell forbids it: without it, importing torch and smp takes 24 s instead of 7.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint format lock crf bench-env notebook tensorboard report download-data submit build shell clean

demo: .venv/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" bash recipes/demo.sh

# Two tests run at a time with one thread each: this halves the time, and tests do not wait for each other's threads.
test: .venv/ready lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Fix all violations of these rules that ruff can fix by itself.
format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Install the exact versions of requirements.txt, checking every file by its hash, then the project itself as editable.
.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(UV)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

# Install the package of --crf. It is compiled here, which takes a C++ compiler and half a minute.
crf: .venv/ready
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps $(CRF)

# The environment of bench/throughput.py: the same packages, and the peers that it measures.
bench-env: .venv-bench/ready

.venv-bench/ready: requirements.txt bench/requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check $(UV)
	.venv-bench/bin/uv pip install --quiet --python .venv-bench/bin/python --require-hashes -r requirements.txt
	.venv-bench/bin/uv pip install --quiet --python .venv-bench/bin/python -r bench/requirements.txt
	.venv-bench/bin/uv pip install --quiet --python .venv-bench/bin/python --no-deps --no-build-isolation --editable .
	touch $@

# Notebook, TensorBoard and report, run from .venv; compose.yaml has the same pages as services.
LOGDIR ?= experiments
RUNS ?= experiments

notebook: .venv/ready
	$(BIN)/jupyter notebook notebooks/first_look.ipynb

tensorboard: .venv/ready
	$(BIN)/tensorboard --logdir $(LOGDIR)

report: .venv/ready
	$(BIN)/python report.py $(RUNS)

# Kaggle by its own client, which needs a token. Values are passed in environment variables, so they may hold quotes;
# make submit FILES="a.csv b.csv" submits several files.
COMPETITION ?= tgs-salt-identification-challenge
DATA ?= data
download-data submit: export COMPETITION := $(COMPETITION)
download-data submit: export DATA := $(DATA)

download-data: .venv/ready
	$(BIN)/python utils/contest.py download --competition "$$COMPETITION" --data_dir "$$DATA"

submit: .venv/ready
	$(BIN)/python utils/contest.py submit $(if $(FILES),$(FILES),"$$FILE") --competition "$$COMPETITION" --data_dir "$$DATA" --message "$$MESSAGE"

# Docker: build the image, or start a shell in it (GPU=1: with GPUs). Files written there belong to the calling user.
COMPOSE = $(or $(shell docker version >/dev/null 2>&1 && \
		{ docker compose version >/dev/null 2>&1 && echo docker compose || command -v docker-compose; }), \
	$(error found no running Docker engine with the compose plugin; start or install it, or use .venv instead (make demo)))
build shell: export HOST_UID = $(shell id -u)
build shell: export HOST_GID = $(shell id -g)

build:
	$(COMPOSE) build shell

shell:
	$(COMPOSE) run --rm shell$(if $(GPU),-gpu)

# Update requirements.txt after a change of the dependencies in pyproject.toml.
lock: .venv/ready
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --universal --fork-strategy fewest \
		--generate-hashes --no-emit-index-url --extra dev --python-version 3.11 pyproject.toml --output-file requirements.txt

clean:
	rm -rf .venv .venv-bench .pytest_cache .hypothesis .ruff_cache *.egg-info
