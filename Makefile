# Every target sets up what it needs on a fresh machine (a virtual environment, the dependencies, the extension) and does
# nothing twice. `make gpu` alone takes the Python it is given and installs nothing.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check -q
CSRC   := $(wildcard csrc/*.* csrc/*/*.*)
FORMAT := $(filter %.h %.cpp %.cu %.cuh,$(CSRC))

# The packages of an extra of pyproject.toml, without building fastat for them.
extra   = $$($(PY) -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['$(1)'])")

# Threads that wait by spinning starve the ones they wait for on a machine that is busy otherwise (libgomp).
export GOMP_SPINCOUNT ?= 10000

DATA   ?= digits
OUT    ?= runs/demo
ARGS   ?=

.PHONY: demo test fuzz lint bench bench-table bench-compare cost-model compare study theory cuda-all kernels sanitize gpu
.PHONY: gpu-pgd gpu-cost-model gpu-train clean
.DELETE_ON_ERROR:

demo: $(VENV)/.extension
	$(PY) -m fastat train --data $(DATA) --out $(OUT) $(ARGS)

# The networks of tests are small: threads that wait for each other cost more than they give, most of all on a machine
# that is busy otherwise. The kernels' own tests take two.
test: export OMP_NUM_THREADS ?= 1
test: $(VENV)/.extension $(VENV)/.peers
	$(PY) -m pytest $(ARGS)

# Hostile arguments for every public function; ARGS="--calls 1000000 --seed 1 --workers 2" makes many.
fuzz: $(VENV)/.extension
	$(PY) -m tests.fuzz $(ARGS)

lint: $(VENV)/.extension $(VENV)/.lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache
	$(VENV)/bin/clang-format --dry-run -Werror $(FORMAT)

bench: $(VENV)/.extension $(VENV)/.peers
	$(PY) -m bench $(ARGS)

# What got faster or slower since the committed results; ARGS="--new FILE" takes a run that is there.
bench-compare: $(VENV)/.extension $(VENV)/.peers
	$(PY) -m bench compare $(ARGS)

# Operations, bytes, ceilings and shares of the time of an attack, with figures; ten minutes on two cores.
cost-model: $(VENV)/.extension
	$(PY) -m bench.cost_model $(ARGS)

bench-table: $(VENV)/.extension
	$(PY) -m bench table $(wildcard bench/results/cpu*.json bench/results/gpu-*.json)

# All protocols on digits and some on CIFAR-10, equal epochs; an hour on one core, resumed.
compare: $(VENV)/.extension
	$(PY) -m experiments.compare $(ARGS)

# What HR and BAT training do, on the datasets that are there; three quarters of an hour on two cores, resumed.
study: $(VENV)/.extension
	$(PY) -m experiments.study $(ARGS)

# The theory experiments of the five papers, quick presets, and a page of all figures; 20 minutes on two cores, resumed.
theory: $(VENV)/.extension
	$(PY) -m fastat theory all --preset quick --out runs/theory/quick $(ARGS)

# Compiles and links the CUDA module for every architecture a wheel carries, and reports registers and spills.
cuda-all: $(VENV)/.dependencies
	mkdir -p build
	FASTAT_CUDA=1 FASTAT_ARCHS=all $(PY) setup.py build_ext --build-lib build/cuda-all --build-temp build/cuda-all/tmp \
	  > build/cuda-all.log 2>&1 || { tail -n 40 build/cuda-all.log; exit 1; }
	$(PY) -m bench.kernels.resources build/cuda-all.log

# Registers, spills, widths of loads, occupancy and launches of every CUDA kernel in place: the tables of
# bench/kernels/kernels.md.
kernels: $(VENV)/.extension
	$(PY) -m bench.kernels $(ARGS)

# The CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer. Python itself is not built with them: its own
# allocations would drown the report, so leaks are not looked for.
SANITIZED := build/sanitize
sanitize: $(VENV)/.dependencies
	mkdir -p $(SANITIZED)
	cp -r fastat tests pyproject.toml $(SANITIZED)/ && rm -f $(SANITIZED)/fastat/kernels/*.so
	FASTAT_SANITIZE=1 FASTAT_CUDA=0 $(PY) setup.py -q build_ext --build-lib $(SANITIZED) --build-temp $(SANITIZED)/tmp
	cd $(SANITIZED) && LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH=. \
	  ../../$(PY) -m pytest -q -p no:cacheprovider tests/kernels/test_steps.py tests/kernels/test_random_start.py \
	  tests/kernels/test_sizes.py tests/kernels/test_l1_exact.py tests/kernels/test_long_steps.py \
	  tests/kernels/test_half_box.py tests/kernels/test_written.py tests/kernels/test_log_odds.py \
	  tests/kernels/test_attack_loss.py tests/objectives/test_holistic.py tests/objectives/test_benign.py \
	  -k "not opcheck and not compile and not two_to_the_31 and not ten_million and not large_batch"

gpu:
	$(PYTHON) bench/runners/gpu.py $(ARGS)

# Row 7 with more networks, batch sizes and precisions than `make gpu` has time for; what does not fit is cut.
gpu-pgd:
	$(PYTHON) -m bench run --device cuda --only pgd --limit 520 --out "$${OUT:-bench/results}" $(ARGS)

# The cost model with this Python, on its GPU.
gpu-cost-model:
	$(PYTHON) -m bench.cost_model --device cuda $(ARGS)

# Row 8: PGD training of PreAct ResNet-18 on CIFAR-10 beside the plain loop, resumed; FASTAT_DATA says where the data are.
gpu-train:
	$(PYTHON) -m bench.rates.training $(ARGS)

clean:
	rm -rf build dist *.egg-info fastat/kernels/*.so $(VENV)/.extension

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade pip

$(VENV)/.dependencies: pyproject.toml | $(VENV)/bin/python
	$(PIP) install torch torchvision "setuptools>=77" pybind11 ninja wheel numpy
	touch $@

$(VENV)/.extension: $(VENV)/.dependencies setup.py $(CSRC)
	$(PIP) install --no-build-isolation -e ".[cli,test]"
	touch $@

$(VENV)/.peers: $(VENV)/.extension tests/peers-build.txt
	$(PIP) install --build-constraint tests/peers-build.txt $(call extra,peers)
	touch $@

$(VENV)/.lint: $(VENV)/.extension
	$(PIP) install $(call extra,lint)
	touch $@
