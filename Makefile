# Two commands matter: `make demo` and `make test`. Each first makes the environment, .venv, and only once.
PYTHON ?= python3
BIN := .venv/bin
UV := uv==0.13.8

.PHONY: demo test lint lock bench-env clean

demo: .venv/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" bash recipes/demo.sh

test: .venv/ready lint
	$(BIN)/pytest -q

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

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

# After a change of the dependencies in pyproject.toml.
lock: .venv/ready
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --universal --fork-strategy fewest \
		--generate-hashes --no-emit-index-url --extra dev --python-version 3.11 pyproject.toml --output-file requirements.txt

clean:
	rm -rf .venv .venv-bench .pytest_cache .hypothesis .ruff_cache *.egg-info
