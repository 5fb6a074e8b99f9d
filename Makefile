# make demo   train examples/snntorch_digits.py stock and accelerated, side by side
# make test   run the tests          make lint   ruff, mypy, clang-format
# make bench  measure speed          make gpu    build, test, check and measure on a GPU
# make clean  remove what was built       make cuda-resources  registers and spills of the CUDA kernels
# Needs Python >= 3.10 (PYTHON=...), a C++ compiler and make; everything else goes into .venv.

PYTHON ?= python3
SCRIPT ?= examples/snntorch_digits.py
BENCH ?= cpu --config S-small,U
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := $(shell find src_cuda -type f) CMakeLists.txt pyproject.toml
CXX_SOURCES := $(shell find src_cuda tests benchmarks -name '*.cpp' -o -name '*.hpp' -o -name '*.cu' -o -name '*.cuh')

.PHONY: demo test lint bench gpu cuda-resources setup clean

demo: setup
	$(BIN)/python -m sparse_backend compare $(SCRIPT)

test: setup
	$(BIN)/pytest

lint: setup
	$(BIN)/ruff check .
	@# Installed, the adapters are a part of the package; mypy has to see them where they will be.
	rm -rf build/mypy && mkdir -p build/mypy && cp -rL sparse_backend build/mypy/
	rm -rf build/mypy/sparse_backend/adapters && cp -r adapters build/mypy/sparse_backend/
	cd build/mypy && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache
	$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES)

bench: setup
	$(BIN)/python -m benchmarks $(BENCH)

# With the Python and torch that are there, not those of .venv: GPU machines bring their own.
gpu:
	PYTHON=$(PYTHON) .ci/gpu

cuda-resources:
	$(PYTHON) src_cuda/resources.py benchmarks/results/cuda-resources.txt

setup: $(VENV)/installed

$(VENV)/torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "$(PYTHON) is older than 3.10; name another: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo "$(PYTHON) has no venv module (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@# By itself: norse asks for torchvision, and together they would bring the CUDA packages.
	$(PIP) install -c constraints.txt torch
	@touch $@

# Editable, so that the sources are live; the kernels are built again when theirs change.
$(VENV)/installed: $(VENV)/torch $(SOURCES)
	$(PIP) install -c constraints.txt -e '.[snntorch,norse,examples,test]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
