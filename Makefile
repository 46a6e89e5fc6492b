# What people do with the project. Every target sets up what it needs in .venv; CI calls the same targets.
PYTHON ?= python3
CONSTRAINTS ?=
VENV := .venv
LIVE := .venv-live
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
MODEL ?= demo
OUT ?= separated
CASES ?= 500

.PHONY: help demo studio web-kernels run test web-test test-plain test-arm64 fuzz live lint type bench docs parity site dist clean

help:  ## this list
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev,plots,studio,remote,cluster]' $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
	touch $@

# Upstream beside the product: the CPU build of PyTorch first, so that demucs finds it.
$(LIVE)/ready: pyproject.toml
	$(PYTHON) -m venv $(LIVE)
	$(LIVE)/bin/python -m pip install --quiet --upgrade pip
	$(LIVE)/bin/python -m pip install --quiet torch==2.13.0
	$(LIVE)/bin/python -m pip install --quiet demucs==4.1.0 numpy
	$(LIVE)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/ready  ## separate the bundled song with the bundled model, and show how well that went
	$(BIN)/demucs-np demo

studio: $(VENV)/ready  ## a page in the browser to drop songs on and hear the stems; the demo song to begin with
	$(BIN)/demucs-np studio --demo

web-kernels: $(VENV)/ready  ## lower the kernels to WebAssembly again, and record the demo's tape, after a kernel has changed
	$(BIN)/python -m demucs_np.web.site

run: $(VENV)/ready  ## make run TRACK=song.mp3 [MODEL=name or file.safetensors] [OUT=folder]
	$(BIN)/demucs-np separate -n '$(MODEL)' -o '$(OUT)' '$(TRACK)'

test: $(VENV)/ready  ## everything that needs no PyTorch
	$(BIN)/python -m pytest -q

web-test: $(VENV)/ready  ## the engine in Node and in Chromium, and the studio's page
	$(BIN)/python -m pytest -q tests/web tests/studio/test_page.py tests/studio/test_static_page.py tests/studio/test_inside_page.py

test-plain: $(VENV)/ready  ## the kernels as plain Python, without compilation
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest -q -m kernel tests

test-arm64: .arm64/ready  ## the kernels and the goldens on 64-bit ARM, emulated (Debian, Ubuntu): ten minutes
	.ci/arm64 -m pytest -q -p no:cacheprovider tests/test_parity.py
	.ci/arm64 -m pytest -q -p no:cacheprovider -m kernel tests

.arm64/ready: .ci/arm64
	.ci/arm64 setup

fuzz: $(VENV)/ready  ## damaged and hostile files for each reader, in a minute (CASES=N, SEED=N)
	$(BIN)/python tests/fuzz.py --cases $(CASES) $(if $(SEED),--seed $(SEED))

live: $(LIVE)/ready  ## against PyTorch, with full-size models
	$(LIVE)/bin/python -m pytest -q -m torch tests/live

lint: $(VENV)/ready  ## ruff, check and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(VENV)/ready  ## mypy, strict
	$(BIN)/mypy

parity: $(VENV)/ready  ## every layer of every committed golden file
	$(BIN)/python -m pytest -q tests/test_parity.py

bench: $(VENV)/ready  ## this machine's speed, memory and parity
	$(BIN)/demucs-np bench

docs: $(VENV)/ready  ## the pictures of docs/
	$(BIN)/python docs/pictures.py

site: $(VENV)/ready  ## the docs as a site in build/site, with the interface's reference; dead links end it
	$(BIN)/python -m pip install --quiet --editable '.[site]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

dist: $(VENV)/ready  ## wheel and sdist in dist/
	rm -rf dist
	$(BIN)/python -m pip install --quiet build
	$(BIN)/python -m build --quiet --outdir dist .

clean:  ## remove what the other targets made
	rm -rf $(VENV) $(LIVE) .arm64 dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
