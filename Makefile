# The Python that .venv is made from, and what goes in there.
PYTHON ?= python3
BIN := .venv/bin
DEMO := build/demo

.PHONY: demo test lint bench caffe-patched caffe-test clean help

help:
	@echo "make demo           extract and evaluate gradient features of real photographs"
	@echo "make test           the tests"
	@echo "make lint           style and types"
	@echo "make caffe-patched  build patched Caffe into .venv (CUDA=1: for the GPU)"
	@echo "make caffe-test     Caffe's own tests of the layers that matter here"
	@echo "make bench          time and memory, as ratios"
	@echo "make clean          remove .venv and build/"

.venv/installed: setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --editable '.[dev]'
	touch $@

caffe-patched: .venv/installed
	$(BIN)/python caffe_patch/build.py install

caffe-test: .venv/installed
	$(BIN)/python caffe_patch/build.py test

demo: .venv/installed
	$(BIN)/fishing photographs $(DEMO)/photographs
	$(BIN)/fishing extract --net tinyalexnet --data $(DEMO)/photographs \
	    --split trainval --split test --output $(DEMO)/features.h5
	$(BIN)/fishing evaluate $(DEMO)/features.h5 --output $(DEMO)/results

test: caffe-patched
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: caffe-patched
	$(BIN)/python tests/benchmarks/extraction.py
	$(BIN)/python tests/benchmarks/evaluation.py
	$(BIN)/python tests/benchmarks/storage.py

clean:
	rm -rf .venv build
