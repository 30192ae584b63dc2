# The base is an argument so that a machine without a registry can name an image of its own.
ARG GO_IMAGE=golang:1.26

# The build runs on the builder's own platform and cross-compiles: nothing is emulated.
# BuildKit sets BUILDPLATFORM; the legacy builder does not, and a bare "linux" is its own.
FROM --platform=${BUILDPLATFORM:-linux} ${GO_IMAGE} AS build

# What the final image holds beside the binary. The user needs a name because programs
# that look their own uid up fail without one.
RUN mkdir -p /rootfs/etc/ssl/certs \
 && mkdir -p -m 0700 /state/inject \
 && cp /etc/ssl/certs/ca-certificates.crt /rootfs/etc/ssl/certs/ \
 && echo 'inject:x:65532:65532:inject:/:/nonexistent' > /rootfs/etc/passwd \
 && echo 'inject:x:65532:' > /rootfs/etc/group

# For builds behind a mirror; not given, Go's own defaults hold.
ARG GOPROXY
ARG GOSUMDB

# A layer of its own: a change of source downloads nothing again.
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download

COPY . .
ARG VERSION=dev
# BuildKit sets it from --platform; empty means the builder's own to Go too. (The legacy
# builder cannot do both in one Dockerfile, it builds for its own platform only.)
ARG TARGETARCH
RUN CGO_ENABLED=0 GOOS=linux GOARCH="$TARGETARCH" \
    go build -trimpath -tags grpcnotrace -ldflags "-s -w -X main.version=$VERSION" -o /out/ ./cmd/inject ./cmd/injectd

# The server: --target injectd. What it keeps is in a volume of its own.
FROM scratch AS injectd
LABEL org.opencontainers.image.title="injectd" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /rootfs/ /
COPY --from=build /out/injectd /injectd
COPY --from=build --chown=65532:65532 /state/ /var/lib/
ENV INJECT_STORE=file:///var/lib/inject/secrets.db \
    INJECT_KEY_FILE=/var/lib/inject/key.txt \
    INJECT_LISTEN=:8093 \
    INJECT_OPS_LISTEN=:8094
VOLUME /var/lib/inject
EXPOSE 8093 8094
# Numbers, not the name: Kubernetes' runAsNonRoot cannot judge a name.
USER 65532:65532
ENTRYPOINT ["/injectd"]
CMD ["serve"]

# What a task's image takes inject from, and the default: it is the last.
FROM scratch
LABEL org.opencontainers.image.title="inject" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /rootfs/ /
COPY --from=build /out/inject /inject
USER 65532:65532
ENTRYPOINT ["/inject"]
