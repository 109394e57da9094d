# Everything happens in .venv; a second run skips the set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ZOO := .venv-zoo
WORKERS ?= 2
# One thread a worker: two threads on two busy cores can be ten times slower than one.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test coverage attack figures papers generated docs lint types bench bench-large exported loops ray zoo clean

demo: $(VENV)/ready
	$(BIN)/congruence demo

test: $(VENV)/ready
	$(ONE_THREAD) $(BIN)/pytest -n $(WORKERS) $(PYTEST)

# What of the code `make test` runs; on Python 3.11 coverage.py takes 60 to 90 % more of the processor's time.
coverage: $(VENV)/ready
	$(ONE_THREAD) $(BIN)/pytest -n $(WORKERS) --cov --cov-report=term:skip-covered $(PYTEST)

# The attacks of `make test`, ten to fifty times as many: what docs/reliability.md counts.
attack: $(VENV)/ready
	CONGRUENCE_ATTACK=1 $(ONE_THREAD) $(BIN)/pytest -n $(WORKERS) $(or $(PYTEST),tests/attacks tests/contract/test_catalogue.py tests/training/test_lost_ranks.py)

# Measured figures and kept results against their pages and commands; rows that still have none are named, no error.
FIGURES ?= tests/figures
figures: $(VENV)/ready
	$(BIN)/python docs/rows_without_figures.py
	$(ONE_THREAD) $(BIN)/pytest $(FIGURES)

# Two steps of every row of the papers' tables (plans/paper), on small data of the same layout; part of `make figures`.
papers: $(VENV)/ready
	$(ONE_THREAD) $(BIN)/pytest -n $(WORKERS) tests/figures/test_papers.py

# What is written from the code: the front door of the losses, the README's tables, the reference, the public surface.
generated: $(VENV)/ready
	$(BIN)/python docs/update_losses.py
	$(BIN)/python docs/update_readme.py
	$(BIN)/python docs/update_reference.py
	$(BIN)/python tests/_harness/api.py > build-api.txt && mv build-api.txt tests/contract/api.txt

# The site, build/site/index.html: pages that are written from the code are current, links lead somewhere, nothing is
# asked of another host, and every public name is on a page.
docs: $(VENV)/docs
	$(ONE_THREAD) $(BIN)/pytest tests/contract/test_site.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python docs/check_site.py build/site

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready
	$(BIN)/mypy

# Ratios of losses, metrics and training steps; and what takes minutes: 50,000 samples, 200,000 files, two ranks, training.
bench: $(VENV)/ready
	$(ONE_THREAD) $(BIN)/python benchmarks/step_overhead.py
	$(ONE_THREAD) $(BIN)/python benchmarks/import_time.py
	$(ONE_THREAD) $(BIN)/python benchmarks/gpcl.py
	$(ONE_THREAD) $(BIN)/python benchmarks/metrics.py
	$(ONE_THREAD) $(BIN)/python benchmarks/rkd_angle.py
	$(ONE_THREAD) $(BIN)/python benchmarks/softrank.py
	$(ONE_THREAD) $(BIN)/python benchmarks/transport.py
	$(ONE_THREAD) $(BIN)/python benchmarks/crd.py
	$(ONE_THREAD) $(BIN)/python benchmarks/wkd.py
	$(ONE_THREAD) $(BIN)/python benchmarks/cached_epoch.py
	$(ONE_THREAD) $(BIN)/python benchmarks/validation.py
	$(BIN)/python docs/update_benchmarks.py

bench-large: $(VENV)/ready
	$(BIN)/python benchmarks/rankings.py
	$(ONE_THREAD) $(BIN)/python benchmarks/balanced_weights.py
	$(ONE_THREAD) $(BIN)/python benchmarks/compiled_step.py
	$(ONE_THREAD) $(BIN)/python benchmarks/dense.py
	$(ONE_THREAD) $(BIN)/python benchmarks/memory_order.py
	$(ONE_THREAD) $(BIN)/python benchmarks/method_cost.py
	$(ONE_THREAD) $(BIN)/python benchmarks/plan_overhead.py
	$(ONE_THREAD) $(BIN)/python benchmarks/large_folder.py
	$(ONE_THREAD) $(BIN)/python benchmarks/large_batches.py
	$(ONE_THREAD) $(BIN)/python benchmarks/scaling.py
	$(BIN)/python docs/update_benchmarks.py

# Quantised and exported teachers, exports to ONNX, and Parquet files, which `make test` skips where torchao, onnxruntime and pyarrow are not installed.
exported: $(VENV)/exported
	$(ONE_THREAD) $(BIN)/pytest -n $(WORKERS) tests/models/test_onnx_model.py tests/models/test_quantised.py tests/distiller/test_gradient_cuts.py tests/pipeline/test_export.py tests/evaluation/exporting tests/data/sources/test_shard_files.py

# The loops and trainers for Accelerate, Lightning and the HF Trainer, which `make test` skips where they are not installed.
loops: $(VENV)/loops
	$(ONE_THREAD) $(BIN)/pytest -n $(WORKERS) tests/training/test_other_loops.py tests/integrations "tests/contract/test_docs.py::test_docstring_examples[congruence.integrations.lightning]"

# A plan's cells in a Ray cluster of this machine, which `make test` skips where Ray is not installed.
ray: $(VENV)/ready
	$(BIN)/pip install --quiet -e ".[ray]"
	$(ONE_THREAD) $(BIN)/pytest tests/bench/test_on_ray.py

# Real models of timm, whose torchvision does not import beside the torch of constraints.txt: an environment of its own.
zoo: $(ZOO)/ready
	$(ONE_THREAD) $(ZOO)/bin/pytest -p no:cacheprovider $(or $(PYTEST),tests/zoo)

$(VENV)/docs: $(VENV)/ready
	$(BIN)/pip install --quiet -e ".[docs]"
	touch $@

$(VENV)/exported: $(VENV)/ready
	$(BIN)/pip install --quiet -e ".[export,parquet,quantised]"
	touch $@

$(VENV)/loops: $(VENV)/ready
	$(BIN)/pip install --quiet -e ".[loops]"
	touch $@

$(ZOO)/ready: pyproject.toml
	test -x $(ZOO)/bin/python || $(PYTHON) -m venv $(ZOO)
	env -u PIP_CONSTRAINT $(ZOO)/bin/pip install --quiet torch==2.14.1 torchvision==0.29.1
	env -u PIP_CONSTRAINT $(ZOO)/bin/pip install --quiet -e ".[zoo]" "pytest>=8"
	touch $@

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "congruence needs Python 3.11 or later.")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch
	$(BIN)/pip install --quiet -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) $(ZOO) build dist .pytest_cache .mypy_cache .ruff_cache
