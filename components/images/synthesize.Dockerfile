# vLLM's OpenAI-compatible server, for the phase synthesize and for `engine: vllm` of the chart. `make synthesize-image` builds it.
#
# It shares nothing with our other images: vLLM pins a torch of its own. A C compiler is in the last stage on purpose: Triton builds its
# launcher when a kernel first runs, and fails without one. As in phasor.Dockerfile the last stage stands on the layer of dependencies instead
# of copying it, which would take its room twice. 10.5 GB on disk, unpacked: all but 0.3 are vLLM with its torch, CUDA libraries and kernels.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS dependencies
# A package index of one's own, and certificates to trust while building.
ARG UV_INDEX_URL
ARG PIP_INDEX_URL
ARG SSL_CERT_FILE
WORKDIR /build
RUN python3 -m venv /opt/vllm
COPY requirements-uv.lock requirements-synthesize.lock ./
RUN /opt/vllm/bin/python -m pip install -q --no-cache-dir --disable-pip-version-check --require-hashes -r requirements-uv.lock \
 && /opt/vllm/bin/uv pip install -q --no-cache --no-deps --compile-bytecode --python /opt/vllm/bin/python --require-hashes \
    -r requirements-synthesize.lock \
 && /opt/vllm/bin/python -m pip uninstall -q -y uv

FROM dependencies
RUN apt-get update -q && apt-get install -q -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
# Kernels and configuration that are made at run time go below HOME, the only place that may be written.
ENV PATH=/opt/vllm/bin:$PATH PYTHONDONTWRITEBYTECODE=1 HOME=/tmp USER=vllm VLLM_NO_USAGE_STATS=1
USER 1000:0
WORKDIR /tmp
ENTRYPOINT ["vllm", "serve"]
