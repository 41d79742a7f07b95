# A tag, or a digest where the build has to be repeatable: rust@sha256:…
ARG RUST_IMAGE=docker.io/library/rust:1.95-bookworm

# The manifests alone, with placeholders for the sources, which the lints want documented. Their content decides whether
# the dependencies are built again.
# Sections of benches, examples and tests are taken out, since Cargo refuses a manifest whose files are missing.
FROM ${RUST_IMAGE} AS manifests
WORKDIR /sources
COPY . .
RUN mkdir /manifests && cp --parents Cargo.toml Cargo.lock crates/*/Cargo.toml /manifests
WORKDIR /manifests
RUN sed -i '/^\[\[\(bench\|example\|test\)\]\]/,/^$/d' Cargo.toml crates/*/Cargo.toml \
    && for crate in crates/*; do mkdir "$crate/src" && echo '//! A placeholder.' > "$crate/src/lib.rs"; done \
    && mkdir src && printf '//! A placeholder.\nfn main() {}\n' > src/main.rs

FROM ${RUST_IMAGE} AS build

# `dist` is what is shipped. `dev` builds in a fraction of the time and is for tests of this file.
ARG PROFILE=dist
# Set by BuildKit and Buildah for the platform that is built for; empty in a builder that knows no platforms.
ARG TARGETARCH

# Static, so that the image needs no libc and the binary can be copied into any other Linux image.
ENV RUSTFLAGS="-C target-feature=+crt-static"

WORKDIR /build

# The target is named even where it is the host's own: Cargo then keeps RUSTFLAGS away from build scripts and procedural
# macros, which are loaded by the compiler as dynamic libraries and cannot be static.
RUN case "${TARGETARCH:-$(uname -m)}" in \
      amd64|x86_64) echo x86_64-unknown-linux-gnu ;; \
      arm64|aarch64) echo aarch64-unknown-linux-gnu ;; \
      *) echo "no target for architecture '${TARGETARCH:-$(uname -m)}'" >&2; exit 1 ;; \
    esac > /target-triple

# Dependencies first, in a layer that only a change of a manifest or the lock file rebuilds: minutes against seconds.
COPY --from=manifests /manifests ./
RUN cargo build --locked --bin lameduck --profile "${PROFILE}" --target "$(cat /target-triple)"

# The touch: COPY keeps the times of the sources, which are older than the placeholders just built, and Cargo, which goes
# by time, would ship the placeholders.
COPY . .
RUN touch src/main.rs crates/*/src/lib.rs \
    && cargo build --locked --bin lameduck --profile "${PROFILE}" --target "$(cat /target-triple)" \
    && case "${PROFILE}" in dev) directory=debug ;; *) directory="${PROFILE}" ;; esac \
    && install -D -m 0755 "target/$(cat /target-triple)/${directory}/lameduck" /out/lameduck \
    && mkdir /out/empty

# Nothing but the binary: no shell and no libc to patch, and no CA bundle: the API server's CA comes with the service
# account, and Mozilla's are compiled in for jobs that are posted elsewhere. Handlers that are commands of your own need them in an image of your own:
#
#     FROM python:3.13-slim
#     COPY --from=lameduck:0.1.0 /lameduck /lameduck
#     COPY resize.py /app/resize.py
#     USER 65532:65532
#     ENV LAMEDUCK_LISTEN=0.0.0.0:8080 LAMEDUCK_ADMIN=0.0.0.0:9090 LAMEDUCK_DATA=/var/lib/lameduck
#     ENV LAMEDUCK_EXEC="python3 /app/resize.py"
#     # Who may use the API: a file of tokens, or LAMEDUCK_ALLOW_ANONYMOUS=true for everybody who reaches it.
#     ENV LAMEDUCK_TOKENS=/run/secrets/tokens
#     ENTRYPOINT ["/lameduck"]
#     CMD ["serve"]
FROM scratch

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="lameduck" \
      org.opencontainers.image.description="A job service for Kubernetes with a readiness-aware drain" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# Owned by root: the process cannot change the program that it runs.
COPY --from=build /out/lameduck /lameduck
# There is no shell to make these later, and a named volume takes its owner from the directory that it covers.
COPY --from=build --chown=65532:65532 /out/empty /var/lib/lameduck
COPY --from=build --chown=65532:65532 /out/empty /tmp

# The program's own defaults are loopback, right on a workstation; here neither probes nor clients would reach it. Who may
# use the API is left to whoever runs the image: LAMEDUCK_TOKENS, or LAMEDUCK_ALLOW_ANONYMOUS=true in a closed network.
ENV LAMEDUCK_LISTEN=0.0.0.0:8080 \
    LAMEDUCK_ADMIN=0.0.0.0:9090 \
    LAMEDUCK_DATA=/var/lib/lameduck

EXPOSE 8080 9090

# Numeric: the kubelet cannot tell whether a *name* is root's, and refuses it under runAsNonRoot.
USER 65532:65532

# SIGTERM begins the drain. Said here so that it is not lost to a base image that sets another signal.
STOPSIGNAL SIGTERM

# The exec form makes the program PID 1, which is the one the signal goes to; a shell in between would keep it.
ENTRYPOINT ["/lameduck"]
CMD ["serve"]
