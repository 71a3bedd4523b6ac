# Each target makes the virtual environment that it needs; a second call starts at once.
.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-oldest lint format bench bench-check gpu-bench overfit gpu-study docs tutorials model-card release-check lock licences audit

PYTHON ?= $(shell for p in python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# Relative, because pip splits this variable at spaces. The environment also reaches pip's build environments.
export PIP_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# A file's name as it is: make would take "$5" or "$(shell ...)" in it for its own.
override export IMAGE := $(value IMAGE)

help:
	@echo "make demo               segment lesions that the project draws (installs the core alone: no torch)"
	@echo "make demo IMAGE=FILE    segment your own photograph, or every photograph of a folder"
	@echo "make test               run the tests (installs torch); ARGS='-k name' goes to pytest"
	@echo "make test-slow          the longer checks: every network through ONNX, a stopped run that resumes"
	@echo "make test-oldest        the tests with the oldest versions that pyproject.toml admits"
	@echo "make lint               ruff and mypy; 'make format' mends what ruff can"
	@echo "make docs               build the site into site/ (open site/index.html); 'make tutorials' runs the tutorials again"
	@echo "make model-card         make MODEL_CARD.md from results/ and the shipped model"
	@echo "make release-check      build sdist and wheel twice, compare, install and try the wheel"
	@echo "make bench              engines, decoding, peers, training: the tables of docs/speed.md; PARTS='engines peers': these"
	@echo "make bench-check        measure the engines again; fails where a ratio lost more than 15 %"
	@echo "make gpu-bench          training on a GPU, one change a row, and what the chip allows; the same call goes on"
	@echo "make gpu-study          studies on a GPU, stopped and saved in time; STUDIES='table2 table4' BUDGET=7m"
	@echo "                        both: GPU_PYTHON=python3 takes a Python that has all it needs, and installs nothing"
	@echo "make overfit            overfit every network on eight images of SEGMAE_DATA; MODEL=NAME: that one"
	@echo "make lock               write requirements.lock again: what CI installs, with hashes"
	@echo "make licences           licences of what is needed at run time; GPL, AGPL and unknown ones are refused"
	@echo "make audit              the same, and known vulnerabilities (pip-audit, over the network)"

demo: .venv-core/installed
	.venv-core/bin/segmae demo $${IMAGE:+"$$IMAGE"}

test: .venv/installed
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 -m "not slow" $(ARGS)

test-slow: .venv/installed
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 -m slow $(ARGS)

# Every package that pyproject.toml names in the oldest version that it admits; uv finds them.
test-oldest:
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	PIP_CONSTRAINT= .venv-oldest/bin/python -m pip install --quiet uv
	.venv-oldest/bin/uv pip install --quiet --python .venv-oldest/bin/python --resolution lowest-direct -e ".[train,export,batch,dev]"
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n 2 -m "not slow" $(ARGS)

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: .venv/installed
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: .venv/installed
	.venv/bin/python benchmarks/run.py $(PARTS)

bench-check: .venv/installed
	.venv/bin/python benchmarks/check.py

# GPU_PYTHON is also what scripts/lent_gpu.py goes by. One that is not of .venv must have all packages already.
GPU_PYTHON ?= .venv/bin/python
ON_GPU = PYTHONPATH=src$${PYTHONPATH:+:$$PYTHONPATH} $(GPU_PYTHON)
gpu-bench gpu-study: $(if $(filter .venv/bin/python,$(GPU_PYTHON)),.venv/installed)

gpu-bench:
	$(ON_GPU) benchmarks/gpu_train.py --compile $(ARGS)

overfit: .venv/installed
	.venv/bin/python scripts/overfit.py $(MODEL) $(ARGS)

docs: .venv-docs/installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet
	@echo "the site: site/index.html"

tutorials: .venv/installed
	OMP_NUM_THREADS=1 .venv/bin/python scripts/tutorials/run.py $(ARGS)

model-card: .venv/installed
	.venv/bin/python scripts/model_card.py

release-check: .venv-release/installed
	.venv-release/bin/python scripts/release_check.py

# The same call again goes on where it stopped. bf16; convolutions are always channels-last.
STUDIES ?= best table2 table4 longer table1 table3 external ph2 folds
BUDGET ?= 7m
gpu-study:
	$(ON_GPU) -m segmae study run $(STUDIES) --scale gpu --device cuda --budget $(BUDGET) $(ARGS)

# LOCKED=1 installs what requirements.lock names and nothing else; a file whose hash differs is refused.
lock: .venv/installed
	.venv/bin/python scripts/lock.py

licences: .venv/installed
	.venv/bin/python scripts/licences.py

# Without a network it says NOT AUDITED and ends well, or with STRICT=1 ends with 3. See scripts/audit.py.
audit: licences
	.venv/bin/python -m pip install --quiet "pip-audit>=2.7"
	.venv/bin/python scripts/audit.py

.venv-core/installed: EXTRAS :=
.venv/installed: EXTRAS := [train,export,dev]
.venv-docs/installed: EXTRAS := [docs]
.venv-release/installed: EXTRAS := [release]

%/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or later found. Install one, or: make PYTHON=/path/to/python3"; exit 1; }
	test -x $*/bin/python || $(PYTHON) -m venv $*
	if [ "$(LOCKED)" = 1 ] && [ $* = .venv ]; then \
		PIP_CONSTRAINT= $*/bin/python -m pip install --quiet --no-deps --require-hashes -r requirements.lock && \
		$*/bin/python -m pip install --quiet --no-deps -e . && $*/bin/python -m pip check; \
	else $*/bin/python -m pip install --quiet -e ".$(EXTRAS)"; fi
	touch $@
