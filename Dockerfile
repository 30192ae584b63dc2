# The base is an argument so that a machine without a registry can name an image of its own.
ARG GO_IMAGE=golang:1.26

# The build runs on the builder's own platform and cross-compiles: nothing is emulated.
# BuildKit sets BUILDPLATFORM; the legacy builder does not, and a bare "linux" is its own.
FROM --platform=${BUILDPLATFORM:-linux} ${GO_IMAGE} AS build

# What the final image holds beside the binary. The user needs a name because programs
# that look their own uid up fail without one.
RUN mkdir -p /rootfs/etc/ssl/certs \
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
    go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /rootfs/inject ./cmd/inject

FROM scratch
LABEL org.opencontainers.image.title="inject" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /rootfs/ /
# Numbers, not the name: Kubernetes' runAsNonRoot cannot judge a name.
USER 65532:65532
ENTRYPOINT ["/inject"]
