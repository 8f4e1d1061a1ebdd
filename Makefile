# The Python that .venv is made with, the folder of its programs, and that of the demo.
PYTHON ?= python3
BIN := .venv/bin
DEMO := build/demo

# The GPU that `make gpu-check` runs on, and further arguments of tests/gpu/check.py.
DEVICE ?= gpu:0
CHECK ?=

.PHONY: demo picture tutorial test test-slow lint bench docs caffe-patched caffe-test clean help
.PHONY: caffe-cuda-check caffe-bundle gpu-check

help:
	@echo "make demo           extract and evaluate gradient features of real photographs"
	@echo "make test           run the tests"
	@echo "make test-slow      run the tests that take minutes"
	@echo "make lint           check style and types"
	@echo "make caffe-patched  build patched Caffe into .venv (CUDA=1: for a GPU)"
	@echo "make caffe-test     run Caffe's own tests of the patched layers"
	@echo "make gpu-check      test and measure a GPU (DEVICE=gpu:0)"
	@echo "make caffe-bundle   pack patched Caffe for GPU machines (CUDA=1)"
	@echo "make caffe-cuda-check  compile and link the GPU build from scratch"
	@echo "make docs           build the documentation as a site in build/site"
	@echo "make picture        draw the picture of the README"
	@echo "make tutorial       run the notebook of the tutorial and store its outputs"
	@echo "make bench          measure time and memory, as ratios"
	@echo "make clean          remove .venv and build/"

.venv/installed: setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --config-settings editable_mode=compat \
	    --editable '.[demo,report,openvino,dask,faiss,parquet,dev,docs]'
	touch $@

caffe-patched: .venv/installed
	$(BIN)/python caffe_patch/build.py install

caffe-test: .venv/installed
	$(BIN)/python caffe_patch/build.py test

caffe-cuda-check: .venv/installed
	$(BIN)/python caffe_patch/cuda_check.py

caffe-bundle: .venv/installed
	$(BIN)/python caffe_patch/bundle.py

gpu-check: export CUDA = 1
gpu-check: .venv/installed
	@$(BIN)/python tests/gpu/machine.py $(DEVICE)
	$(BIN)/python caffe_patch/build.py install
	$(BIN)/python caffe_patch/build.py tests
	$(BIN)/python tests/gpu/check.py --device $(DEVICE) $(CHECK)

demo: .venv/installed
	$(BIN)/fishing photographs $(DEMO)/photographs
	$(BIN)/fishing extract --net tinyalexnet --data $(DEMO)/photographs \
	    --split trainval --split test --output $(DEMO)/features.h5
	$(BIN)/fishing evaluate $(DEMO)/features.h5 --bootstrap 1000 \
	    --output $(DEMO)/results
	@$(BIN)/fishing report $(DEMO)/results --output $(DEMO)/report

picture: demo
	$(BIN)/python docs/picture.py $(DEMO)/report/plots docs/images/report.svg

tutorial: .venv/installed
	$(BIN)/python docs/notebook.py docs/tutorial.ipynb

# Tests start hundreds of processes, which need not compile the modules each anew. Two
# of them at a time fill two cores; more threads of BLAS would only wait for each other.
test: export OPENBLAS_NUM_THREADS = 1
test: caffe-patched
	$(BIN)/python -m compileall -q fishing .venv/lib/python3*/site-packages/caffe
	$(BIN)/python tests/report/chromium.py
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: caffe-patched
	$(BIN)/python -m pytest -m slow

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: .venv/installed
	$(BIN)/mkdocs build --strict

bench: caffe-patched
	$(BIN)/python tests/benchmarks/extraction.py
	$(BIN)/python tests/benchmarks/backends.py
	$(BIN)/python tests/benchmarks/evaluation.py
	$(BIN)/python tests/benchmarks/storage.py

clean:
	rm -rf .venv build fishing.egg-info
