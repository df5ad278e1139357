# Two images by the lock that they install; `make images` builds both. Sizes are on disk, unpacked.
#
# requirements-image.lock: every pipeline component. 7.2 GB, of which 6.8 GB are torch with its CUDA libraries and what stands on it.
# requirements-serve.lock: serving and indexing alone, 5.4 GB. Without the trainer, DVC, KFP and Triton, which only torch.compile uses.
# The CUDA libraries stay: torch's module links them, so that it cannot be imported without, and one image serves CPUs and GPUs.
#
# Dependencies come as one layer that changes with the lock only; our own code is a layer of 4 MB, so that a change of it costs
# seconds to push and to pull. The last stage stands on that layer instead of copying it, which would store 7 GB twice wherever it is
# built. The address of a package index of one's own therefore stays in the image's history: give its password as a mounted netrc.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS dependencies
# A package index of one's own, and certificates to trust while building.
ARG UV_INDEX_URL
ARG PIP_INDEX_URL
ARG SSL_CERT_FILE
ARG LOCK=requirements-image.lock
WORKDIR /build
RUN python3 -m venv /opt/phasor
COPY requirements-uv.lock ${LOCK} ./
# A lock is complete: --no-deps, because what was left out of one on purpose must not be looked for. Bytecode costs 0.26 GB and takes the
# imports of a starting server from 9.4 s to 4.2 s (two cores, twice each): pods cannot write it, so they would compile at every start.
RUN /opt/phasor/bin/python -m pip install -q --no-cache-dir --disable-pip-version-check --require-hashes -r requirements-uv.lock \
 && /opt/phasor/bin/uv pip install -q --no-cache --no-deps --compile-bytecode --python /opt/phasor/bin/python --require-hashes -r ${LOCK} \
 && /opt/phasor/bin/python -m pip uninstall -q -y uv
FROM dependencies AS code
COPY pyproject.toml ./
COPY src ./src
# src/phasor/recipes is a link to it
COPY recipes ./recipes
RUN /opt/phasor/bin/python -m pip install -q --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation --target /code .

FROM dependencies
COPY --from=code /code /opt/code
# A user without an entry in /etc/passwd is common on Kubernetes: libraries that ask for a name or a home find one here.
ENV PATH=/opt/phasor/bin:/opt/code/bin:$PATH PYTHONPATH=/opt/code PYTHONDONTWRITEBYTECODE=1 HOME=/tmp USER=phasor TOKENIZERS_PARALLELISM=false
USER 1000:0
WORKDIR /tmp
ENTRYPOINT ["python3", "-m", "phasor"]
