# `make help` lists the targets. What a variable means: README.md.
SHELL := /bin/bash
PYTHON ?= python3
PY := .venv/bin/python

SOURCE ?= sample
OUT ?= data
DATASETS ?= mucaps,muedit,muimage,muvideo,musicqa
CAPTIONS ?= measured
MULLAMA ?=
LLAMA ?=
MERT ?=
BLIP ?=
VIDEO ?=
LLM ?=
SEED ?= 0
MEDIA ?=
SEGMENTS ?=
ONTOLOGY ?=
URL ?=
RUNNER ?=
LIMIT ?=
WORKERS ?=
RUN ?=
REPO ?=
EMBED ?= none
PRIVATE ?=
DRY_RUN ?=
IDS ?=
SQUASH ?=
ROWS ?=
TO ?=
SIZE ?= debug
DECODER ?= musicgen
COCO ?=
ALPACA ?=
MUSICQA ?=
VIT ?=
VIVIT ?=
TEXT_ENCODER ?=
GPUS ?=
ARGS ?=
TORCH_INDEX ?=

.PHONY: help setup datasets status ledger report diff features publish publish-model takedown \
	train-stage1 train-stage2 train-stage3 test lint bench bench-model \
	bench-captions bench-train learn lavis-env lock clean
.DEFAULT_GOAL := help
.NOTPARALLEL:

help:  ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## */\1 /p' $(MAKEFILE_LIST) | while read -r name text; do printf '%-16s%s\n' "$$name" "$$text"; done

setup: .venv/ready  ## the environment, in .venv (TORCH_INDEX=URL chooses torch's build)

.venv/ready: requirements.txt requirements-torch.txt setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-torch.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

datasets: setup  ## make the datasets: SOURCE= OUT= LIMIT= DATASETS= CAPTIONS= WORKERS= ARGS= ... (README.md)
	$(strip $(PY) -m pipelines build --source "$(SOURCE)" --out "$(OUT)" --datasets "$(DATASETS)" \
		--captions "$(CAPTIONS)" --seed "$(SEED)" $(if $(MEDIA),--media "$(MEDIA)") \
		$(if $(SEGMENTS),--segments "$(SEGMENTS)") $(if $(ONTOLOGY),--ontology "$(ONTOLOGY)") \
		$(if $(URL),--url "$(URL)") $(if $(RUNNER),--runner "$(RUNNER)") \
		$(if $(LIMIT),--limit "$(LIMIT)") $(if $(WORKERS),--workers "$(WORKERS)") \
		$(if $(MULLAMA),--mullama "$(MULLAMA)") $(if $(LLAMA),--llama "$(LLAMA)") $(if $(MERT),--mert "$(MERT)") \
		$(if $(BLIP),--blip "$(BLIP)") $(if $(VIDEO),--video "$(VIDEO)") $(if $(LLM),--llm "$(LLM)") $(ARGS))

status: setup  ## of a build in flight or ended: OUT=
	$(PY) -m pipelines status "$(OUT)"

ledger: setup  ## why each lost clip was lost: OUT=
	$(PY) -m pipelines ledger "$(OUT)"

report: setup  ## a page to look at and listen to, OUT/report.html: OUT= ROWS= TO=
	$(strip $(PY) -m pipelines report --out "$(OUT)" $(if $(ROWS),--rows "$(ROWS)") $(if $(TO),--to "$(TO)"))

diff: setup  ## rows added, removed and changed from one build to another: A= B=
	$(PY) -m pipelines diff "$(A)" "$(B)" $(ARGS) || [ $$? -eq 1 ]

PUBLISH = --repo "$(REPO)" $(if $(PRIVATE),--private) $(if $(DRY_RUN),--dry-run) $(ARGS)

publish: setup  ## a build's datasets to the Hub, in one commit: OUT= REPO=org/name DATASETS= EMBED=media PRIVATE=1 DRY_RUN=1
	$(strip $(PY) -m pipelines publish --out "$(OUT)" --embed "$(EMBED)" $(PUBLISH) \
		$(if $(filter file,$(origin DATASETS)),,--datasets "$(DATASETS)"))

takedown: setup  ## source videos leave a build for good, and the Hub: OUT= IDS=file REPO=org/name SQUASH=1
	$(strip $(PY) -m pipelines takedown --out "$(OUT)" --ids "$(IDS)" $(if $(REPO),--repo "$(REPO)") \
		$(if $(SQUASH),--squash))

publish-model: setup  ## a trained model to the Hub: RUN= (else that of OUT) REPO=org/name PRIVATE=1 DRY_RUN=1
	$(strip $(PY) -m pipelines publish-model --run "$(or $(RUN),$(OUT)/runs)" $(PUBLISH))

# What `make features` and `make train-stage…` share: which models, and which published datasets.
MODELS = --out "$(OUT)" --size "$(SIZE)" --decoder "$(DECODER)" $(if $(COCO),--coco "$(COCO)") \
	$(if $(MUSICQA),--musicqa "$(MUSICQA)") $(if $(MERT),--mert "$(MERT)") $(if $(VIT),--vit "$(VIT)") \
	$(if $(VIVIT),--vivit "$(VIVIT)") $(if $(TEXT_ENCODER),--text-encoder "$(TEXT_ENCODER)")
TRAIN = $(strip $(PY) $(if $(GPUS),-m torch.distributed.run --standalone --nproc-per-node $(GPUS) -m --) $(if $(GPUS),,-m) training train \
	$(MODELS) $(if $(RUN),--run "$(RUN)") $(if $(LLAMA),--llama "$(LLAMA)") $(if $(ALPACA),--alpaca "$(ALPACA)") $(ARGS))

features: setup  ## what the frozen encoders make of a build's media and captions, once: OUT= SIZE= DECODER= ...
	$(strip $(PY) -m pipelines features $(MODELS) $(if $(RUNNER),--runner "$(RUNNER)") \
		$(if $(WORKERS),--workers "$(WORKERS)") $(ARGS))

train-stage1: setup  ## train adapters, prefix and gates: OUT= RUN= SIZE= LLAMA= DECODER= COCO= GPUS= ARGS=
	$(TRAIN) --stage 1

train-stage2: setup  ## then the output projector and the audio tokens
	$(TRAIN) --stage 2

train-stage3: setup  ## then all of it, with LoRA: and ALPACA= MUSICQA=
	$(TRAIN) --stage 3

test: setup  ## all tests
	$(PY) -m pytest -n 2 --dist loadfile

lint: setup  ## ruff
	$(PY) -m ruff check .

bench: setup  ## speed and memory, to benchmarks/*.json
	$(PY) benchmarks/floor.py
	$(PY) benchmarks/audioset.py
	$(PY) benchmarks/pairing.py

bench-model: setup  ## the models' speed and memory, to benchmarks/model-*.json; ARGS="--size 7b --device cuda"
	$(PY) benchmarks/model.py $(ARGS)

bench-captions: setup  ## captions and instructions by models, together and one by one; ARGS="--size 7b --device cuda"
	$(PY) benchmarks/captions.py $(ARGS)

bench-train: setup  ## training, beside one sample at a time without features; ARGS="--size 7b --device cuda"
	$(PY) benchmarks/train.py $(ARGS)

learn: setup  ## does it learn? A small corpus, the three stages, held-out clips; to benchmarks/learn.*: OUT= LIMIT=
	$(strip $(PY) benchmarks/learn.py --out "$(OUT)/learn" $(if $(LIMIT),--limit "$(LIMIT)") $(ARGS))

lavis-env:  ## LAVIS's own environment, in .lavis, for BLIP by LAVIS (PYTHON=python3.11; TORCH_INDEX=URL as for setup)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Python 3.11 is needed, the last with LAVIS's libraries; name it: make lavis-env PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv --clear .lavis
	.lavis/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-torch.txt torchvision \
		$(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	.lavis/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-lavis.txt -c requirements-torch.txt

lock: setup  ## resolve setup.py anew into requirements.txt
	$(PY) -m pip install --quiet uv
	# torch stays out (no hash, and its wheels on PyPI pull CUDA); what it needs besides CUDA is named here instead.
	printf '%s\n' filelock jinja2 networkx setuptools sympy typing-extensions > .venv/torch-needs.txt
	printf '%s\n' "torch ; sys_platform == 'never'" > .venv/no-torch.txt
	.venv/bin/uv pip compile setup.py .venv/torch-needs.txt --extra dev --override .venv/no-torch.txt \
		--no-emit-package torch --generate-hashes --universal --python-version 3.11 --no-annotate --no-header --upgrade \
		--quiet --output-file requirements.txt

clean:  ## the environment and caches; never a build
	rm -rf .venv .pytest_cache .ruff_cache *.egg-info
