# `make lab` and `make test` need nothing but python3 (3.11 or newer): they set up $(VENV) first, once.
#
# PyTorch: PyPI's wheel for Linux is a CUDA build of gigabytes. On Linux without an NVIDIA GPU the CPU build of the same
# release is taken instead: from a wheel that pip is configured to find, or from PyTorch's own index where that can be
# reached. `make lab TORCH_INDEX=URL` names another index; `TORCH_INDEX=` (empty) takes what pip finds by itself.

SHELL  := /bin/bash
PYTHON ?= python3
VENV   ?= .venv
COMMA  := ,
HOME_  := $(abspath $(VENV))
PY     := $(HOME_)/bin/python
READY  := $(HOME_)/.ready
LAB_ROOT ?= $(CURDIR)
TORCH_INDEX ?= auto
CPU_INDEX   := https://download.pytorch.org/whl/cpu

# Nothing is fetched from a model hub, and no configuration of the user's is read or written.
export HF_HUB_OFFLINE := 1
export TRANSFORMERS_OFFLINE := 1
export HF_DATASETS_OFFLINE := 1
export JUPYTER_CONFIG_DIR := $(HOME_)/jupyter/config
export JUPYTER_DATA_DIR := $(HOME_)/jupyter/data
export JUPYTER_RUNTIME_DIR := $(HOME_)/jupyter/runtime
export IPYTHONDIR := $(HOME_)/jupyter/ipython
export MPLCONFIGDIR := $(HOME_)/matplotlib
# glibc returns a freed block over these sizes to the system, and the next tensor pays for fresh pages again.
export MALLOC_MMAP_THRESHOLD_ := 1073741824
export MALLOC_TRIM_THRESHOLD_ := 1073741824

.DEFAULT_GOAL := help
.PHONY: help lab test test-fast lint format data weights lessons exercises site bench gpu lock clean

help: ## list the targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

# JupyterLab asks at its first start whether to fetch news, and which kernel to take: no, and the only one.
LAB_SETTINGS := {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}, \
  "@jupyterlab/notebook-extension:tracker": {"autoStartDefaultKernel": true}}

# nbgrader builds and grades the exercises here; its menus are for a teacher's own server.
NBGRADER := formgrader validate_assignment assignment_list course_list
NBGRADER_OFF := $(subst $() ,$(COMMA) ,$(foreach e,$(NBGRADER),"nbgrader.server_extensions.$(e)":false))
lab: $(READY) ## open JupyterLab on lesson 00
	@mkdir -p '$(JUPYTER_CONFIG_DIR)/labconfig'
	@echo '$(LAB_SETTINGS)' > '$(JUPYTER_CONFIG_DIR)/labconfig/default_setting_overrides.json'
	@echo '{"disabledExtensions": {"@jupyter/nbgrader": true}}' > '$(JUPYTER_CONFIG_DIR)/labconfig/page_config.json'
	@echo '{"ServerApp": {"jpserver_extensions": {$(NBGRADER_OFF)}}}' > '$(JUPYTER_CONFIG_DIR)/jupyter_server_config.json'
	$(PY) -m jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir='$(LAB_ROOT)' \
	  --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(LAB_ARGS)

test: lint ## run every test: units, parity, command line, lessons, wheel, browser
	$(PY) -m pytest --durations=15 $(PYTEST_ARGS)

test-fast: $(READY) ## run the unit and parity tests that take seconds
	$(PY) -m pytest -m "not slow" --durations=5 $(PYTEST_ARGS)

lint: $(READY) ## check the format, the style and the types
	@echo "== format, style and types"
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

format: $(READY) ## format the code
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

data: $(READY) ## rebuild data/ from the named packages (needs npm and a network)
	$(PY) -m ldm_edu.datasets.make

weights: $(READY) ## train every shipped network anew into runs/ (hours; stop and resume as you like)
	$(PY) -m ldm_edu train classifier --preset perceptual --out runs/perceptual
	$(PY) -m ldm_edu train classifier --preset judge --out runs/judge
	$(PY) -m ldm_edu train vae --preset emoji --perceptual runs/perceptual
	$(PY) -m ldm_edu train decoder --preset emoji --perceptual runs/perceptual
	$(PY) -m ldm_edu train clip --preset emoji
	$(PY) -m ldm_edu train unet --preset emoji
	$(PY) -m ldm_edu train unet --preset fashion
	$(PY) -m ldm_edu.training.bands --out runs/fashion/bands.json
	$(PY) -m ldm_edu.training.compress
	$(PY) -m ldm_edu train vae --preset shapes
	$(PY) -m ldm_edu train unet --preset shapes

lessons: $(READY) ## execute notebooks/text/*.py into notebooks/*.ipynb (one of them: LESSON=00_start_here)
	$(PY) notebooks/build.py $(LESSON)

exercises: $(READY) ## build solutions/*.ipynb and exercises/*.ipynb from solutions/text/*.py
	$(PY) solutions/build.py

site: $(READY) ## build the lessons and the reference as web pages into build/site
	$(PY) docs/site/build.py

bench: $(READY) ## time a training step, text to picture and the samplers on this machine
	$(PY) -m ldm_edu bench train-step
	$(PY) -m ldm_edu bench generate
	$(PY) -m ldm_edu bench samplers

# All that wants a GPU, in one call, each part by itself: what one of them breaks, the others still give. It needs no
# $(VENV) where GPU_PY has PyTorch and the packages; what it made lies in runs/gpu and, in pieces of 15 MB, in $(OUT).
GPU_PY    ?= python3
GPU_STEPS ?= 20000
GPU_BATCH ?= 256
GPU_COUNT ?= 250
OUT       ?= runs/gpu/pieces
gpu: ## on a GPU: benchmarks, lesson 08, then the emoji model trained long and measured
	mkdir -p runs/gpu/emoji '$(OUT)'
	-$(GPU_PY) -m ldm_edu bench gpu --out runs/gpu/gpu.json
	-PYTHONPATH='$(CURDIR)' $(GPU_PY) notebooks/build.py 08_stable_diffusion && cp notebooks/08_stable_diffusion.ipynb runs/gpu
	cp data/checkpoints/emoji/*.json data/checkpoints/emoji/*.safetensors runs/gpu/emoji
	-$(GPU_PY) -m ldm_edu train unet --preset emoji --out runs/gpu/emoji --steps $(GPU_STEPS) --batch $(GPU_BATCH)
	-$(GPU_PY) -m ldm_edu evaluate runs/gpu/emoji --count $(GPU_COUNT) --guidance 3 \
	  --out runs/gpu/evaluate-emoji.json --sheet runs/gpu/emoji/nearest.png
	tar -C runs/gpu --exclude=training --exclude=pieces -cf - . | split -b 15000000 - '$(OUT)/gpu.tar.'

lock: $(READY) ## write constraints.txt anew from what is installed
	@{ sed -n '/^#/p' constraints.txt; $(PY) -m pip freeze --exclude ldm-edu | sed 's/^\(torch==[0-9.]*\).*/\1/'; } \
	  > constraints.new && mv constraints.new constraints.txt

clean: ## remove caches and builds (not $(VENV), not runs/)
	rm -rf build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache test-artifacts
	find . -path ./.venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "ldm-edu needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || echo missing)." \
	       "Name another with 'make $(MAKECMDGOALS) PYTHON=python3.12'."; exit 1; }
	@echo "== setting up $(VENV) (once; some minutes and about 2 GB)"
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear '$(HOME_)' || { \
	  echo "Could not make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@index='$(TORCH_INDEX)'; \
	if [ "$$index" = auto ]; then \
	  index=; \
	  if [ "$$(uname -s)" = Linux ] && ! nvidia-smi >/dev/null 2>&1 && \
	     $(PY) -c "import urllib.request as r; r.urlopen('$(CPU_INDEX)/torch/', timeout=5)" 2>/dev/null; \
	  then index=$(CPU_INDEX); fi; \
	fi; \
	quiet=$$([ -t 1 ] || echo --quiet); \
	set -ex; \
	$(PY) -m pip install $$quiet -c constraints.txt hatchling editables; \
	$(PY) -m pip install $$quiet $${index:+--extra-index-url "$$index"} -c constraints.txt --no-build-isolation \
	  -e '.[lab,test,train,data,docs]'
	@touch '$(READY)'
