# An image whose server finds every kernel of kernels.yaml ahead of time, and has nothing to compile with.
#
#   docker build -t server .                                      no GPU needed: kernels.yaml names the targets
#   docker build -t server --build-arg KERNELS=kernels.h100.yaml .     a file beside this one, *.yaml or *.yml
#   docker build --target wheel --output dist .                   only the wheel, for an image that you have already
#
# Into an image with an engine of its own, such as lmsysorg/sglang or vllm/vllm-openai, kernels go by Dockerfile.engine.
# Where kernels.yaml has `models:`, their config.json belong into models/ beside it (config: models/llama/config.json).
# A package index of your own comes in as a secret, and into no layer: --secret id=pip,src=pip.conf
# Kernels that another machine has compiled come from a store (docs/stores.md), its credentials as a secret, a file of
# lines NAME=value: --build-arg FITASKS_STORE=s3://bucket/kernels --secret id=store,src=store.env
# Layers change in the order: torch, toolkit, FlashInfer, fitasks, kernels.yaml. Finished kernels are kept by content in
# a cache mount, so whatever changed, only kernels that are really different are compiled.

ARG BUILD_BASE=python:3.11-slim-bookworm
ARG RUNTIME_BASE=python:3.11-slim-bookworm

# ---- what the server's stage begins with: looked at before anything is compiled
FROM ${RUNTIME_BASE} AS base
ARG RUNTIME_BASE
# The environment below comes first on PATH: one that an engine's image has would be hidden by it, or changed.
RUN found=$(find / -xdev -type d \( -path '*-packages/torch' -o -path '*-packages/flashinfer' \) -prune 2>/dev/null); \
    if [ -n "$found" ]; then echo "RUNTIME_BASE=${RUNTIME_BASE} has an environment of its own:" $found >&2; \
    echo "use the other Dockerfile: docker build -f Dockerfile.engine --build-arg ENGINE_IMAGE=${RUNTIME_BASE} ." >&2; \
    exit 1; fi

# ---- everything that kernels are compiled with
FROM ${BUILD_BASE} AS compiler
ENV DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN apt-get update -q \
 && apt-get install -yq --no-install-recommends g++ make \
      $(python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3 python3-venv) \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv /opt/venv
WORKDIR /src

# A stage of its own: of pyproject.toml, only changed requirements cost the layers below.
FROM compiler AS requirements
COPY pyproject.toml ./
RUN python3 -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
print(*project["dependencies"], *project["optional-dependencies"]["cuda13"], \
*project["optional-dependencies"]["store"], *project["optional-dependencies"]["dask"], sep="\n")' > /requirements.txt \
 && touch -d @0 /requirements.txt

FROM compiler AS toolchain
ARG TORCH=torch==2.13.0
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/venv/bin/pip install --quiet "${TORCH}"
COPY --from=requirements /requirements.txt /opt/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/venv/bin/pip install --quiet "${TORCH}" -r /opt/requirements.txt
ARG FLASHINFER_VERSION=0.7.4
# The server's engine, sglang==0.5.16: needed where kernels.yaml names modules of its own. It goes into both stages.
ARG ENGINE=
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/venv/bin/pip install --quiet "${TORCH}" -r /opt/requirements.txt "flashinfer-python==${FLASHINFER_VERSION}" \
      ${ENGINE}
COPY dodo.py Makefile ./
COPY fitasks fitasks
ENV PATH=/opt/venv/bin:$PATH

# ---- the kernels, and the wheel that provides them
FROM toolchain AS builder
ARG KERNELS=kernels.yaml
COPY models models
COPY ${KERNELS} kernels.yaml
# Of this stage alone: the image has neither the store's name nor what opens it.
ARG FITASKS_STORE=
ARG FITASKS_STORE_PUSH=
RUN --mount=type=cache,target=/root/.cache/fitasks --mount=type=secret,id=store,target=/run/secrets/store \
    if [ -f /run/secrets/store ]; then set -a && . /run/secrets/store && set +a; fi \
 && make kernels PYTHON=/opt/venv/bin/python && mkdir dist && doit check --json dist/kernels.json && doit wheel \
 && doit deliver && (cd dist && find . -maxdepth 1 -name '*.whl' -exec sha256sum {} + > wheel.sha256)

FROM scratch AS wheel
COPY --from=builder /src/dist/*.whl /

# ---- the server: no compiler, no nvcc, no ninja, not root
FROM base AS runtime
ENV DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then \
      apt-get update -q && apt-get install -yq --no-install-recommends python3 python3-venv \
      && rm -rf /var/lib/apt/lists/*; fi \
 && python3 -m venv /opt/venv \
 && useradd --create-home server
ENV PATH=/opt/venv/bin:$PATH
ARG TORCH=torch==2.13.0
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --quiet "${TORCH}"
ARG FLASHINFER_VERSION=0.7.4
ARG ENGINE=
# FlashInfer requires ninja, for compiling; what isn't there cannot be used by mistake.
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --quiet "${TORCH}" "flashinfer-python==${FLASHINFER_VERSION}" ${ENGINE} \
 && pip uninstall --quiet --yes ninja
# Not the wheel itself: a copied file stays in its layer. Its hash is copied, so that another wheel costs the next one.
# Of kernels that no wheel can hold there is no wheel, and no hash.
COPY --from=builder /src/fitasks/serving/gate/ahead_*.py \
     /src/dist/kernels.json /src/dist/wheel.sha256 /opt/fitasks/
RUN --mount=type=bind,from=builder,source=/src/dist,target=/wheel \
    cd /wheel && if [ -s /opt/fitasks/wheel.sha256 ]; then \
      sha256sum --check --quiet /opt/fitasks/wheel.sha256 && pip install --quiet --no-index --no-deps *.whl; fi
COPY --from=builder /src/fitasks/serving/plan/*.py /opt/fitasks/plan/
# What no wheel can hold, by `doit deliver`. FlashInfer writes a log into its cache when it is imported.
COPY --from=builder /src/dist/engines /opt/engines
COPY --from=builder --chown=server:server /src/dist/engines/flashinfer /opt/engines/flashinfer

USER server
WORKDIR /home/server
# Refused at once is better than compiled in a live server. SGLang's caches are root's: a module that isn't
# there can't be built there either, so that its first call fails at once. compilers/bin is empty, unless SGLang keeps
# modules by content: then nvcc and c++ there say the builder's versions, which are part of SGLang's key, and compile
# nothing.
ENV FLASHINFER_DISABLE_JIT=1 SGLANG_CRASH_ON_JIT_COMPILE=1 FLASHINFER_WORKSPACE_BASE=/opt/engines/flashinfer \
    TVM_FFI_CACHE_DIR=/opt/engines/tvm-ffi SGLANG_JIT_CACHE_DIR=/opt/engines/sglang-jit \
    PATH=/opt/engines/compilers/bin:$PATH
# The gate: FlashInfer's own lookup finds every module that the builder compiled, unaltered, and it can be loaded: as
# this user, with what is here; SGLang's own lie where it looks, and what an engine keeps under a key of its own it finds
# under that of this image. Of what they need, only the driver's libcuda may be missing.
RUN python /opt/fitasks/ahead_of_time.py /opt/fitasks/kernels.json
