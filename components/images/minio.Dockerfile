# The object store of the overlay `kind`; the context is a folder with a `minio` program.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
COPY minio /usr/local/bin/minio
USER 1000:0
