# make demo          sets up, runs the main job on an embedded corpus (or DATA=folder), ends with a table and a picture
# make test          sets up, runs the tests but the slow ones (7 minutes on 2 cores), as many at once as there are cores
# make test-all      all tests
# make test-rest     the slow tests, and those marked `extra`, which need what `make setup` does not install
# make test-minimum  all tests, with the oldest versions of dependencies that setup.cfg allows, in .venv-minimum
# make bench         sets up, measures speed and memory against others (45 minutes), writes the tables of docs/performance.md
# make peers         installs what some benchmarks, and their tests, compare with
# make docs          sets up, builds the documentation's site in site/, and stops at broken links
# make check         sets up, runs ruff, mypy and import-linter, which holds the layers of pyproject.toml, and make docs

VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
UAMIX_SHARED ?= ../shared
export UAMIX_SHARED
# test,docs,torchcodec,ray,wandb,app,browser also tests m4a and aac, which takes FFmpeg's libraries, what uses Ray and
# W&B, and the page of examples/few_shot_app, in Debian's chromium.
EXTRAS ?= test,docs

# make demo DATA=folder TRAIN="fold=1,2,3" TEST="fold=4,5" LABEL=label GROUP=src_file
DATA ?=
TRAIN ?=
TEST ?=
LABEL ?= label
GROUP ?=
OUTPUT ?= demo_output

# PEERS compare with libraries that `make peers` installs.
BENCHMARKS = encoder pretraining tuning features pipeline utilisation neighbour_queue scaling memory modes levers import_time
PEERS = audio_mae lightly_nnclr embed_files

.PHONY: setup peers demo test test-all test-rest test-minimum bench docs check code clean

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt torch
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable ".[$(EXTRAS)]"
	touch $@

setup: $(VENV)/.installed

# Beside the environment, without dependencies: see the file.
.peers/.installed: benchmarks/peers.txt $(VENV)/.installed
	rm -rf .peers
	$(VENV)/bin/pip install --quiet --no-deps --target .peers --requirement benchmarks/peers.txt
	touch $@

peers: .peers/.installed

demo: setup
	$(VENV)/bin/python examples/demo/demo.py --output_dir "$(OUTPUT)" $(if $(DATA),--data_dir "$(DATA)") \
		$(if $(TRAIN),--train_where $(TRAIN)) $(if $(TEST),--test_where $(TEST)) \
		--label_column "$(LABEL)" $(if $(GROUP),--group_column "$(GROUP)")

# Two OpenMP threads on small tensors are slower than one, and files of tests run beside each other: a file's launches
# serve all its tests. In the order of their names, since by numbers of tests the longest files would come last.
RUN_TESTS = OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(1)/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test: setup
	$(call RUN_TESTS,$(VENV)) -m "not slow"

test-all: setup peers
	$(call RUN_TESTS,$(VENV))

test-rest: setup peers
	$(call RUN_TESTS,$(VENV)) -m "slow or extra"

test-minimum:
	$(PYTHON) -m venv .venv-minimum
	.venv-minimum/bin/pip install --quiet --constraint constraints-minimum.txt torch
	.venv-minimum/bin/pip install --quiet --constraint constraints-minimum.txt --editable ".[test]"
	$(call RUN_TESTS,.venv-minimum)

bench: setup peers
	for name in $(BENCHMARKS) $(PEERS) profile_jobs; do $(VENV)/bin/python benchmarks/$$name.py || exit 1; done
	$(VENV)/bin/python benchmarks/table.py

docs: setup
	$(VENV)/bin/zensical build --strict --clean

check: setup docs
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# After a change of the modules that travel with weights: the checkpoints in model_cards/ carry copies of them.
TRAVELLING = $(filter-out %/convert_audio_mae.py,$(wildcard uamix_hf/models/audio_mae/*_audio_mae.py))

code:
	for file in model_cards/*/modeling_audio_mae.py; do cp $(TRAVELLING) $$(dirname $$file); done

clean:
	rm -rf $(VENV) .venv-all .venv-minimum .peers demo_output build dist site .cache *.egg-info .pytest_cache .mypy_cache .ruff_cache
