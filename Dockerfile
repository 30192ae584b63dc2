# An argument, so that a machine without access to a registry can use a local image.
ARG GO_IMAGE=golang:1.26

# The build runs on the builder's own platform and cross-compiles, which is faster than emulation.
# BuildKit sets BUILDPLATFORM. The legacy builder does not; it takes "linux" as its own platform.
FROM --platform=${BUILDPLATFORM:-linux} ${GO_IMAGE} AS build

# For builds behind a mirror. If they are not set, Go uses its defaults.
ARG GOPROXY
ARG GOSUMDB

# In a layer of its own, so that a change of the source does not download the modules again.
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download

COPY . .
ARG VERSION=dev
# BuildKit sets it from --platform. The legacy builder leaves it empty: Go then builds for the
# builder's own platform, the only one that the legacy builder can build for.
ARG TARGETARCH
RUN export CGO_ENABLED=0 GOOS=linux GOARCH="$TARGETARCH" && \
    go build -trimpath -tags grpcnotrace,nethttpomithttp2 -ldflags "-s -w -X main.version=$VERSION" -o /out/ ./cmd/inject && \
    go build -trimpath -tags grpcnotrace -ldflags "-s -w -X main.version=$VERSION" -o /out/ ./cmd/injectd
# /folders has those above the state, which are root's. COPY --chown would give them to the user, too.
RUN mkdir -p /folders/var/lib && mkdir -p -m 0700 /state/inject && sh deploy/rootfs.sh /rootfs /out/inject /out/injectd

# The server: --target injectd. Its store and key are in a volume.
FROM scratch AS injectd
LABEL org.opencontainers.image.title="injectd" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /rootfs/ /
COPY --from=build /out/injectd /injectd
COPY --from=build /folders/ /
COPY --from=build --chown=65532:65532 /state/ /var/lib/
# The store is /var/lib/inject/secrets.db and its key /var/lib/inject/key.txt.
ENV XDG_DATA_HOME=/var/lib \
    XDG_CONFIG_HOME=/var/lib \
    INJECTD_LISTEN=:8093 \
    INJECTD_OPS_LISTEN=:8094
VOLUME /var/lib/inject
EXPOSE 8093 8094
# Numbers, because Kubernetes cannot tell whether a user's name is root (runAsNonRoot).
USER 65532:65532
# For Docker; Kubernetes probes /livez and /readyz itself.
HEALTHCHECK --interval=10s --timeout=10s CMD ["/injectd", "health"]
ENTRYPOINT ["/injectd"]
CMD ["serve"]

# inject, for other images to copy. The last stage is the default target.
FROM scratch
LABEL org.opencontainers.image.title="inject" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /rootfs/ /
COPY --from=build /out/inject /inject
USER 65532:65532
ENTRYPOINT ["/inject"]
