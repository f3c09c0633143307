# make demo: the whole job on synthetic data.  make install: only the set-up.
# make test: the tests.  make test-all: the slow ones as well (clusters, kills, compilation).
# make reproduce-small LIBRISPEECH=FOLDER: the paper's table on a few hours of speech, in 45 minutes on 2 CPU cores.
PYTHON ?= python3
# On Linux PyPI's torch brings several GB of CUDA along; TORCH_INDEX=https://download.pytorch.org/whl/cpu does not.
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# One pytest process per core, at most four; the tests of a file run in one process and share what it makes.
PARALLEL := -n logical --maxprocesses 4 --dist loadfile

# A tree with a few hours of a train-* subset: whole speakers of it are held out.
LIBRISPEECH ?=
RESULTS ?= reproduce-out

.PHONY: install demo test test-slow test-all reproduce-small lint clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("whisper-gpt needs Python 3.11 or newer: make PYTHON=python3.11 …" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	mkdir -p $(VENV)/links/whisper_gpt
	for folder in jobs manifests model pipeline; do ln -sfn $(CURDIR)/$$folder $(VENV)/links/whisper_gpt/$$folder; done
	touch $@

demo: $(INSTALLED)
	rm -rf demo-out
	$(BIN)/whisper-gpt demo --out demo-out

test: $(INSTALLED)
	$(BIN)/python -m pytest $(PARALLEL)

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow $(PARALLEL)

test-all: test test-slow

reproduce-small: $(INSTALLED)
	$(if $(LIBRISPEECH),,$(error make reproduce-small LIBRISPEECH=FOLDER: name the folder of a LibriSpeech tree))
	$(BIN)/whisper-gpt preprocess librispeech $(LIBRISPEECH) --out $(RESULTS)/speech --codec encodec_24khz_small \
	  --mel-of both --leaky-control --hold-out 0.1 0.11
	$(BIN)/whisper-gpt reproduce $(RESULTS)/speech --out $(RESULTS)/results --budget 38 --seeds 2 \
	  --learning-rates 2e-3 6e-3 --precision auto --compile

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo-out
