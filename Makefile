# Two commands: `make demo` trains and evaluates on this machine's own Python documentation, `make test` runs the tests.
PYTHON ?= python3.11
# test processes; each needs a core and about 2 GB
WORKERS ?= 2
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test check lock clean help pipelines images synthesize-image minio-image e2e

help:  ## show the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

.venv/.installed: requirements.lock requirements-uv.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-uv.lock
	$(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

.legacy/.installed: .venv/.installed requirements-legacy.lock
	$(BIN)/uv pip install -q --python $(BIN)/python --target .legacy --no-deps --require-hashes -r requirements-legacy.lock
	@touch $@

demo: .venv/.installed  ## the whole recipe on real text, both roles
	$(BIN)/phasor repro
	$(BIN)/phasor results

test: .venv/.installed .legacy/.installed  ## every test that this machine can run
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

check: .venv/.installed  ## style and types
	$(BIN)/ruff check src tests benchmarks components pipelines
	$(BIN)/mypy

lock: .venv/.installed  ## resolve the dependencies anew
	$(BIN)/uv pip compile -q pyproject.toml --all-extras --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --upgrade -o requirements.lock
	$(BIN)/uv pip compile -q pyproject.toml --extra pipeline --extra demo -c requirements.lock --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o requirements-image.lock
	$(BIN)/uv pip compile -q --group serve -c requirements.lock --no-emit-package triton --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o requirements-serve.lock
	$(BIN)/uv pip compile -q --group synthesize --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-emit-index-url --no-header --upgrade -o requirements-synthesize.lock
	$(BIN)/uv pip compile -q requirements-legacy.in --no-deps --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o requirements-legacy.lock

clean:  ## remove everything that a run made
	rm -rf work report .dvc/cache .dvc/tmp

pipelines: .venv/.installed  ## compile the Kubeflow pipeline for every profile
	for profile in pipelines/profiles/*.yaml; do \
	    $(BIN)/phasor pipeline compile --profile $$profile --output pipelines/compiled/$$(basename $$profile) || exit 1; done

# base image of the pods; the images to build; options of the builder, for example a certificate bundle to mount
BASE ?= python:3.11-slim-bookworm
IMAGE ?= phasor.local/phasor:dev
SERVE_IMAGE ?= phasor.local/phasor-serve:dev
BUILD_OPTIONS ?=
BUILDER ?= $(shell command -v buildah >/dev/null && echo "buildah build --layers" || echo "docker build")

images:  ## build the images of the pipeline's components and of the server
	$(BUILDER) $(BUILD_OPTIONS) --build-arg BASE=$(BASE) -f components/images/phasor.Dockerfile -t $(IMAGE) .
	$(BUILDER) $(BUILD_OPTIONS) --build-arg BASE=$(BASE) --build-arg LOCK=requirements-serve.lock \
	    -f components/images/phasor.Dockerfile -t $(SERVE_IMAGE) .

SYNTHESIZE_IMAGE ?= phasor.local/phasor-synthesize:dev

synthesize-image:  ## build the image of the generation server (vLLM); for GPUs, large
	$(BUILDER) $(BUILD_OPTIONS) --build-arg BASE=$(BASE) -f components/images/synthesize.Dockerfile -t $(SYNTHESIZE_IMAGE) .

# what the overlay `kind` names
MINIO_IMAGE := phasor.local/minio:dev

minio-image:  ## build the image of the overlay kind's store, from the minio program on the path
	@command -v minio >/dev/null || { echo "There is no minio on the path. Build it with: go install github.com/minio/minio@latest" >&2; exit 1; }
	$(BUILDER) --build-arg BASE=$(BASE) -f components/images/minio.Dockerfile -t $(MINIO_IMAGE) $(dir $(shell command -v minio))

# puts an image into the cluster, which may have no registry
LOAD ?= kind load docker-image

e2e: .venv/.installed images minio-image  ## the tests that need a real Kubernetes, one that may be spoilt
	for image in $(IMAGE) $(SERVE_IMAGE) $(MINIO_IMAGE); do $(LOAD) $$image || exit 1; done
	PHASOR_E2E=1 PHASOR_IMAGE=$(IMAGE) PHASOR_SERVE_IMAGE=$(SERVE_IMAGE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(E2E_OPTIONS) tests/e2e tests/manifests tests/charts
