# `make demo` and `make test` need Python 3.9 to 3.12 and make; everything else goes into .venv.
VENV := .venv
BIN := $(VENV)/bin

# The first Python that MXNet 1.9.1 and numpy 1.26 have wheels for.
PYTHON ?= $(shell for python in python3 python3.12 python3.11 python3.10 python3.9; do \
	$$python -c 'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 12))' \
	2>/dev/null && echo $$python && break; done)

.PHONY: demo test test-isa lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/demo.stamp
	$(BIN)/ademx demo --output demo

# As many processes as cores, each with one thread for MXNet and PyTorch; who is done early takes
# over from the others. The last lines say what was skipped, and why. Bytecode is kept, whatever the
# environment says: tests start hundreds of processes.
test: $(VENV)/test.stamp
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} \
	$(BIN)/python -m pytest -c tests/pytest.ini -n auto --dist worksteal tests

# The golden tests by other kernels: what MXNet's oneDNN takes for a smaller CPU, one thread and two,
# and PyTorch. A minute or two each on an idle machine, ten at the most.
GOLDEN := timeout 600 $(BIN)/python -m pytest -c tests/pytest.ini -q tests/test_evaluate_golden.py \
	tests/test_symbols_golden.py
test-isa: $(VENV)/test.stamp
	DNNL_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=1 $(GOLDEN)
	DNNL_MAX_CPU_ISA=AVX512_CORE OMP_NUM_THREADS=2 $(GOLDEN)
	OMP_NUM_THREADS=1 $(GOLDEN)
	OMP_NUM_THREADS=2 $(GOLDEN)
	$(GOLDEN) --backend torch

lint: $(VENV)/test.stamp
	$(BIN)/ruff check --config tools/ruff.toml .
	$(BIN)/ruff format --config tools/ruff.toml --check .
	$(BIN)/mypy --config-file tools/mypy.ini

clean:
	rm -rf $(VENV) demo *.egg-info

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "ademx needs Python 3.9 to 3.12; found none: install one, or \
	name it, as in make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# A stamp is younger than setup.py once what its target needs is installed.
$(VENV)/demo.stamp: setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[cpu,plot]'
	touch $@

$(VENV)/test.stamp: setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@$(BIN)/python -m pip install --quiet --editable '.[crf]' || \
	echo "pydensecrf2 could not be compiled (it needs g++): its tests will be skipped" >&2
	touch $@
