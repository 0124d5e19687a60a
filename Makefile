# slslib: every target that needs the environment creates it first.
#
#   make book        run every notebook once, build the book, print where it is
#   make test        run the fast tests
#   make lab         open JupyterLab on the notebooks (takes the variables of make report)
#   make clean       remove what was built; `make distclean` also removes the environment
#
#   make report      build a book from your corpora and weights (SLSLIB_DATA, SLSLIB_CHECKPOINT,
#                    SLSLIB_BACKBONE, SLSLIB_CLIPS, SLSLIB_RUNS, SLSLIB_RECORDING, SLSLIB_LABEL);
#                    ONLY="01 05" runs only these notebooks
#   make rehearsal   run every command and notebook at XLS-R's full size, on stand-ins for corpora
#                    and weights (CLIPS, REHEARSE)
#
#   make setup       create the environment only
#   make notebooks   run every notebook and compare its outputs with the committed ones
#   make test-slow   run the tests that take minutes or gigabytes
#   make test-cuda   run the tests that need a GPU
#   make bench-cuda  measure speed, memory and rounding of a GPU; write studies/results/gpu.json
#   make test-fairseq  compare with fairseq, built from source in an environment of its own
#   make test-site   open every page of the built book in headless Chromium
#   make test-all    run all tests at once, after make book
#   make lint        run ruff and mypy
#
# Variables, as in `make JOBS=4 test` (defaults in parentheses):
#   TORCH_INDEX   index that PyTorch comes from (pip's configured index). For one CUDA version, or
#                 for the CPU, give the address that https://pytorch.org/get-started prints, e.g.
#                 make TORCH_INDEX=https://download.pytorch.org/whl/cu130 book
#   PYTHON        path of a Python 3.11 (found on the PATH)
#   VENV          folder of the environment (.venv)
#   JOBS          parallel workers of the tests (2)
#   LABFLAGS      options of JupyterLab, e.g. --no-browser
#   ONLY          notebooks of the report, e.g. "01 05" (all)
#   CLIPS         clips of each class of a corpus in the rehearsal (4)
#   REHEARSE      options that select a part of it, e.g. "--commands score --notebooks 02 09"

PYTHON ?=
VENV ?= .venv
TORCH_INDEX ?=
JOBS ?= 2
LABFLAGS ?=
ONLY ?=
CLIPS ?= 4
REHEARSE ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.slslib-installed
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)
# Jupyter refuses to run as root without this option. In many containers, root is the only user.
override LABFLAGS += $(if $(filter 0,$(shell id -u)),--allow-root)
CACHE := _build/.jupyter_cache
# The book is that of the simulated corpus, whatever the reader's shell exports.
UNSET := env $(foreach name,DATA CHECKPOINT BACKBONE CLIPS RUNS RECORDING LABEL,-u SLSLIB_$(name))

.DEFAULT_GOAL := help
.PHONY: help setup book report rehearsal notebooks test test-slow test-cuda bench-cuda test-fairseq test-site test-all lint lab clean distclean FORCE

help:
	@sed -n '/^#   make/,/^$$/s/^# \{0,1\}//p' Makefile

setup: $(STAMP)

# If TORCH_INDEX differs from the one used before, install PyTorch again.
ifneq ($(TORCH_INDEX),)
ifneq ($(TORCH_INDEX),$(shell cat $(STAMP) 2>/dev/null))
$(STAMP): FORCE
endif
endif

$(STAMP): pyproject.toml constraints.txt
	@python=$$(sh .ci/find-python '$(PYTHON)') && "$$python" .ci/install.py '$(VENV)' '$(TORCH_INDEX)'

notebooks: $(STAMP)
	@echo "slslib: running the notebooks"
	@$(UNSET) SLSLIB_BOOK_CACHE=$(CACHE) $(PYTEST) -o addopts="-q -p no:cacheprovider" --dist loadfile \
	    --nbval --nbval-current-env --nbval-sanitize-with notebooks/nbval-sanitize.cfg \
	    --nbval-cell-timeout 600 notebooks || [ $$? = 5 ]  # 5: no notebooks

# Running the notebooks fills the cache of the book, so each notebook is executed only once.
book: $(STAMP)
	@rm -rf $(filter-out _build/rehearsal,$(wildcard _build/* _build/.[a-z]*))
	@$(MAKE) --no-print-directory notebooks
	@echo "slslib: building the book"
	@$(UNSET) $(BIN)/jupyter-book build . -W -n --keep-going --all --quiet >/dev/null
	@echo "slslib: the book is at $(CURDIR)/_build/html/index.html"

report: $(STAMP)
	@$(BIN)/python book/make_report.py $(if $(ONLY),--only $(ONLY))

REHEARSAL := _build/rehearsal
rehearsal: $(STAMP)
	@$(BIN)/python studies/rehearsal.py corpora $(REHEARSAL)/corpora
	@$(BIN)/python studies/rehearsal.py weights $(REHEARSAL)/weights
	@$(BIN)/python studies/rehearsal.py run --corpora $(REHEARSAL)/corpora \
	    --weights $(REHEARSAL)/weights --clips $(CLIPS) --out $(REHEARSAL)/rehearsal.json $(REHEARSE)

test: $(STAMP)
	@$(PYTEST) -m "not slow and not site"

test-slow: $(STAMP)
	@$(BIN)/python -m pytest -m slow

# One test at a time: they share the GPU's memory. Without a GPU, each test says why it is skipped.
test-cuda: $(STAMP)
	@$(BIN)/python -m pytest -m cuda tests

bench-cuda: $(STAMP)
	@$(BIN)/python studies/gpu.py --batch-size 1 8 32 64

# fairseq is old and needs an environment of its own. It requires torchaudio, which is not used here
# and does not load beside this PyTorch. transformers would try to load it, so it is removed.
$(VENV)-fairseq/.fairseq-installed: pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory VENV=$(VENV)-fairseq setup
	@echo "slslib: building fairseq (needs a C++ compiler; about five minutes)"
	@$(VENV)-fairseq/bin/python -m pip install -q -c constraints.txt cython wheel
	@$(VENV)-fairseq/bin/python -m pip install -q --no-build-isolation -c constraints.txt fairseq-fixed==0.12.3.1
	@$(VENV)-fairseq/bin/python -m pip uninstall -q -y torchaudio
	@touch $@

test-fairseq: $(VENV)-fairseq/.fairseq-installed
	@OMP_NUM_THREADS=$(JOBS) $(VENV)-fairseq/bin/python -m pytest -n 0 -s -m fairseq tests/model/test_fairseq.py

_build/html/index.html:
	@$(MAKE) --no-print-directory book

test-site: $(STAMP) _build/html/index.html
	@$(PYTEST) -m site tests/test_site.py

test-all: $(STAMP)
	@$(PYTEST) --durations 10

lint: $(STAMP)
	@status=0; \
	$(BIN)/ruff check --quiet --output-format concise . || status=1; \
	$(BIN)/ruff format --quiet --check . || status=1; \
	$(BIN)/mypy || status=1; \
	exit $$status

# The notebooks run in their own folder, so relative paths must become absolute.
lab: $(STAMP)
	@for name in DATA CHECKPOINT BACKBONE RUNS RECORDING CACHE; do \
	    value=$$(printenv SLSLIB_$$name || :); \
	    case "$$name=$$value" in \
	    *=|*=/*|*=\~*|CHECKPOINT=mini|BACKBONE=mini|*=hub:*) ;; \
	    *) export "SLSLIB_$$name=$$PWD/$$value" ;; \
	    esac; \
	done; \
	exec $(BIN)/jupyter lab $(LABFLAGS) notebooks

clean:
	@rm -rf _build build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean
	@rm -rf $(VENV) $(VENV)-fairseq

FORCE:
