# Everything runs in a virtual environment that these targets make. PYTHON chooses the interpreter (3.10 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# two workers: torch and BLAS use the cores themselves
PYTEST := $(BIN)/python -m pytest -q -n 2

.PHONY: setup test test-fast test-trainers test-slurm test-ray lint demo sample-data bench bench-smoke fuzz clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,sample]'
	touch $@

test: setup lint
	$(PYTEST)

# for work in progress: without the tests that are marked slow
test-fast: setup
	$(PYTEST) -m "not slow"

# the loaders and readers of others, which are many
test-trainers: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,trainers-test]'
	$(BIN)/python -m pytest -q tests/test_trainers.py tests/test_exports.py tests/test_docs.py

# a SLURM cluster of one node, where slurmctld, slurmd and munge are installed (Debian's packages); as root
test-slurm: setup
	$(BIN)/python -m pytest -q tests/test_slurm.py

# Ray, which is large
test-ray: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,ray-test]'
	$(BIN)/python -m pytest -q tests/test_ray.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: setup
	LFQ=$(BIN)/lfq PYTHON=$(BIN)/python sh sample_data/demo.sh

sample-data: setup
	$(BIN)/python sample_data/make_sample_data.py

bench: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks

bench-smoke: setup
	$(BIN)/python -m benchmarks --smoke

# FUZZ="--kind codes --seconds 3600"; a kind that is named runs under atheris, where that is installed
fuzz: setup
	PYTHONPATH=tests $(BIN)/python tests/fuzz.py $(FUZZ)

clean:
	rm -rf $(VENV) build dist demo_output *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
