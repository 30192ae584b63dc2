# `make help` lists the targets.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
GO      ?= go
# Leaves out gRPC's tracing pages. They are never served, and inject is 3 MB smaller without them.
TAGS    := grpcnotrace
# Leaves out HTTP/2 of net/http, too, which injectd serves. inject has that of gRPC, and is 0.5 MB smaller.
SMALL   := $(TAGS),nethttpomithttp2
# Builds one of the programs: $(call program,NAME,TAGS,FOLDER).
program  = $(GO) build -trimpath -buildvcs=false -tags $(2) -ldflags "$(LDFLAGS)" -o $(3) ./cmd/$(1)
# A number of runs, not a time: a timed fuzz run may fail with "context deadline exceeded" when
# its time is over (https://github.com/golang/go/issues/75804).
FUZZ    ?= 1000000x
LINT    := bin/golangci-lint

.DEFAULT_GOAL := help
.PHONY: help build install man chart quickstart test test-long race lint cross bench bench-start e2e e2e-long e2e-oldest fuzz generate record image images wire sdk flytekit storage python newest keycloak kubernetes clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-11s %s\n", $$1, $$2 }'

build: ## build bin/inject and bin/injectd, static and stripped
	CGO_ENABLED=0 $(call program,inject,$(SMALL),bin/)
	CGO_ENABLED=0 $(call program,injectd,$(TAGS),bin/)

# Where make install puts files. To build a package, set DESTDIR: it is put in front of PREFIX.
PREFIX ?= /usr/local
SHARE   = $(DESTDIR)$(PREFIX)/share

install: build ## install both programs, their man pages, completions and licenses below PREFIX (/usr/local)
	install -d $(DESTDIR)$(PREFIX)/bin $(SHARE)/man/man1 $(SHARE)/bash-completion/completions \
		$(SHARE)/zsh/site-functions $(SHARE)/fish/vendor_completions.d
	install -m 755 bin/inject bin/injectd $(DESTDIR)$(PREFIX)/bin
	install -m 644 docs/man/*.1 $(SHARE)/man/man1
	deploy/notices.sh $(SHARE)/doc/inject/licenses bin/inject bin/injectd
	install -m 644 LICENSE $(SHARE)/doc/inject/licenses
	@set -e; for name in inject injectd; do \
		bin/$$name completion bash > $(SHARE)/bash-completion/completions/$$name; \
		bin/$$name completion zsh > $(SHARE)/zsh/site-functions/_$$name; \
		bin/$$name completion fish > $(SHARE)/fish/vendor_completions.d/$$name.fish; \
	done

man: ## write the man pages in docs/man, from the commands and flags of the programs
	INJECT_TEST_UPDATE=1 $(GO) test -count 1 -run '^TestManPages$$' ./cmd/inject ./cmd/injectd

chart: ## write what is made from the chart: docs/reference/chart.md and deploy/install-*.yaml (needs Helm)
	INJECT_TEST_UPDATE=1 $(GO) test -count 1 -run '^(TestReference|TestInstallFiles)$$' ./deploy/chart

quickstart: build ## show the main use, command by command, with a new store in a temporary home
	@./quickstart.sh

test: ## run the tests, with a small share of those that take minutes
	$(GO) test -short -timeout 10m ./...

test-long: ## run all tests in full: every flipped byte, a million files, hundreds of kills, soaks
	$(GO) test -timeout 30m ./...

# Without the packages whose tests mostly run programs: those are built without the detector, as they
# are released, so it would see the tests alone. It sees the programs' code in the other packages, and
# what servers share between requests of their probes in the tests of cmd/injectd that run in the process.
RACE = $(GO) list ./... | grep -vE '^inject/(cmd/inject|cmd/injectd|deploy/chart|docs|python)$$'

race: ## run the tests of make test with the race detector, but for those of the programs (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race -short -timeout 20m $$($(RACE))
	CGO_ENABLED=1 $(GO) test -race -short -run '^TestReady' ./cmd/injectd

# The linters are in a module of their own, so that their dependencies are not those of inject.
$(LINT): tools/go.mod tools/go.sum
	cd tools && $(GO) build -o ../$(LINT) github.com/golangci/golangci-lint/v2/cmd/golangci-lint

# The tests of the wire skip the clients that are missing, unless INJECT_TEST_NO_SKIP is set.
bin/grpcurl: deploy/wire/go.mod deploy/wire/go.sum
	cd deploy/wire && $(GO) build -o ../../$@ github.com/fullstorydev/grpcurl/cmd/grpcurl

deploy/wire/node_modules: deploy/wire/package.json deploy/wire/package-lock.json
	cd deploy/wire && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error && touch node_modules

# For the page about images.
bin/crane: tools/image/go.mod tools/image/go.sum
	cd tools/image && $(GO) build -o ../../$@ github.com/google/go-containerregistry/cmd/crane

wire: bin/grpcurl bin/crane deploy/wire/node_modules ## install third-party clients of the server and of registries for tests (needs npm)

# The tests of what Flyte's SDK and pyarrow write skip without them, too. Pip keeps what it has
# downloaded in the user's cache, so only the first run on a machine takes long.
bin/sdk/installed: deploy/sdk/requirements.txt
	python3 -m venv --clear bin/sdk
	bin/sdk/bin/pip install --quiet --disable-pip-version-check --no-input --require-hashes --only-binary :all: -r $<
	touch $@

sdk: bin/sdk/installed ## install Flyte's SDK and other Python packages for tests (needs Python's venv)

# Without the package index: the tools are those of make sdk.
python: bin/sdk/installed ## build the wheel of flyteplugins-inject in dist
	bin/sdk/bin/pip wheel --quiet --disable-pip-version-check --no-deps --no-index --no-build-isolation -w dist ./python

newest: ## run the tests of Flyte's SDK with its newest release, and report how they end; never fails
	deploy/newest.sh

# The SDK of Flyte v1 and its runtime, in a folder of its own, because the SDKs of v1 and v2 need
# other versions of the same packages.
bin/flytekit/installed: deploy/flytekit/requirements.txt
	python3 -m venv --clear bin/flytekit
	bin/flytekit/bin/pip install --quiet --disable-pip-version-check --no-input --require-hashes --only-binary :all: -r $<
	touch $@

flytekit: bin/flytekit/installed ## install flytekit, the SDK of Flyte v1, for tests (needs Python's venv)

# Real object stores and clients for the tests of the guard, which skip without them.
bin/versitygw: deploy/storage/go.mod deploy/storage/go.sum
	cd deploy/storage && CGO_ENABLED=0 $(GO) build -o ../../$@ github.com/versity/versitygw/cmd/versitygw

bin/storage/installed: deploy/storage/requirements.txt
	python3 -m venv --clear bin/storage
	bin/storage/bin/pip install --quiet --disable-pip-version-check --no-input --require-hashes --only-binary :all: -r $<
	touch $@

bin/azurite/installed: deploy/storage/azurite/package.json deploy/storage/azurite/package-lock.json
	mkdir -p bin/azurite && cp $^ bin/azurite
	cd bin/azurite && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

storage: bin/versitygw bin/storage/installed bin/azurite/installed ## install object stores and their clients for tests (needs Python's venv, npm)

# A real identity provider for the tests of logins, which skip without it. They need Java and
# Debian's packages chromium and chromium-driver, too.
KEYCLOAK := 26.0.7
bin/keycloak/installed: deploy/keycloak.sha256
	mkdir -p bin
	curl -sSfL -o bin/keycloak.zip https://repo1.maven.org/maven2/org/keycloak/keycloak-quarkus-dist/$(KEYCLOAK)/keycloak-quarkus-dist-$(KEYCLOAK).zip
	sha256sum --check --quiet $<
	rm -rf bin/keycloak && unzip -q bin/keycloak.zip -d bin && mv bin/keycloak-$(KEYCLOAK) bin/keycloak
	rm bin/keycloak.zip && touch $@

keycloak: bin/keycloak/installed ## install Keycloak for the tests of logins (needs unzip; 150 MB)

# Modules with definitions of objects of the chart.
DEFINITIONS := github.com/prometheus-operator/prometheus-operator sigs.k8s.io/gateway-api

# A real API server for tests beside Debian's etcd, which skip without it. Phony, because build.sh
# itself knows what is built.
kubernetes: ## build an API server of Kubernetes with its controllers, kubectl and Helm for tests (minutes, the first time)
	deploy/e2e/build.sh kubernetes bin kube-apiserver kube-controller-manager kubectl
	deploy/e2e/build.sh helm bin helm
	deploy/e2e/build.sh helm3 bin/helm3 helm
	mkdir -p bin/definitions
	cd deploy/e2e/definitions && $(GO) mod download $(DEFINITIONS) && \
		for name in $(DEFINITIONS); do ln -sfn "$$($(GO) list -m -f '{{.Dir}}' $$name)" "../../../bin/definitions/$${name##*/}"; done

lint: $(LINT) ## check style, floors and mistakes, and the scripts if shellcheck is installed
	$(GO) vet ./...
	$(LINT) run ./...
	cd bench && $(GO) vet ./... && ../$(LINT) run ./...
	cd tools/image && $(GO) vet ./... && ../../$(LINT) run ./...
	@if command -v shellcheck > /dev/null; then shellcheck -x quickstart.sh .ci/run deploy/*.sh deploy/docker/*.sh deploy/e2e/*.sh deploy/e2e/*/*.sh examples/*/*.sh; else echo "shellcheck is not installed: scripts are not checked"; fi

cross: ## build and vet for the other platforms
	@set -e; for p in linux/arm64 darwin/arm64; do \
		echo "$$p"; \
		export CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p#*/}; \
		$(call program,inject,$(SMALL),bin/$$p/); \
		$(call program,injectd,$(TAGS),bin/$$p/); \
		$(GO) vet ./...; \
	done

bench: build ## compare opening a store, starting (with tini), masking (with cat), resolving (with etcd), storage calls (with and without the guard), pods (with and without policies; knowing them, with TokenReviews; changing them, with leaving them; reviewing 200 a second, with a server that does nothing); ONCE=1 only checks that it runs
	$(GO) test -run '^$$' -bench . -benchtime $(if $(ONCE),1x,1000x) ./injector/webhook ./resolver/store/sealed ./deploy/chart ./resolver/serve/kube
	cd bench && $(GO) run . measure $(if $(ONCE),-once) -inject ../bin/inject -injectd ../bin/injectd

# Finds the fuzz targets, so that a new one cannot be forgotten.
fuzz: ## fuzz each target FUZZ (1000000x) times
	@set -e; grep -rE --include='*_test.go' '^func Fuzz' . | sed -E 's|/[^/]*:func (Fuzz[A-Za-z]*).*| \1|' | while read -r dir target; do \
		echo "$$dir $$target"; \
		$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZ) -fuzzminimizetime 10x "$$dir" < /dev/null; \
	done

# Needs protoc and its standard .proto files (Debian: protobuf-compiler, libprotobuf-dev).
generate: ## generate the Go code of the messages in resolver/idl
	cd tools && $(GO) build -o ../bin/ google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc connectrpc.com/connect/cmd/protoc-gen-connect-go
	cd resolver/idl && find . -name '*.proto' -printf '%P\n' | PATH="$(CURDIR)/bin:$$PATH" xargs protoc -I . \
		--go_out=. --go_opt=module=inject/resolver/idl \
		--go-grpc_out=. --go-grpc_opt=module=inject/resolver/idl \
		--connect-go_out=. --connect-go_opt=module=inject/resolver/idl,simple=true

# Once a release is tagged: the next one is tested against its recording.
record: ## record what inject and injectd of the release REV say to each other, for the tests of version skew
	INJECT_TEST_RECORD=$(REV) $(GO) test -count 1 -run '^TestSkewPrograms$$' ./cmd/injectd

image: ## build the container images with docker; GO_IMAGE is the Go image to build in
	docker build --build-arg VERSION=$(VERSION) $(if $(GO_IMAGE),--build-arg GO_IMAGE=$(GO_IMAGE)) --target injectd -t injectd:$(VERSION) -t injectd .
	docker build --build-arg VERSION=$(VERSION) $(if $(GO_IMAGE),--build-arg GO_IMAGE=$(GO_IMAGE)) -t inject:$(VERSION) -t inject .

# Everything in the images is from the commit, Go's release and go.sum, so that each build has the same
# digests. Settings of Go that change its code are the defaults, as in the Dockerfile, and not those of the
# caller's variables and file (go env -w): of these only where modules and caches are is taken. A revision with
# -dirty has changes that are not committed. A folder IMAGES of your own must not exist.
IMAGES    ?= dist/images
PLATFORMS ?= linux/amd64 linux/arm64
REVISION  ?= $(shell git rev-parse HEAD 2>/dev/null)$(if $(shell git status --porcelain 2>/dev/null),-dirty)
KEPT_GO   := GOPROXY GOSUMDB GONOPROXY GONOSUMDB GOPRIVATE GOINSECURE GOVCS GOAUTH GOCACHE GOMODCACHE GOTOOLCHAIN
plain_go   = for v in $(KEPT_GO); do export "$$v=$$($(GO) env $$v)"; done; export GOENV=off GOWORK=off GOFLAGS= GOEXPERIMENT= GOFIPS140=off
SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),0)
images: ## build the images for amd64 and arm64 with SBOMs, as OCI layouts in dist/images, without docker; SOURCE is the repository's URL
	$(if $(filter dist/images,$(IMAGES)),rm -rf dist/images)
	mkdir -p $(dir $(IMAGES)) && mkdir $(IMAGES)
	@set -e; $(plain_go); for p in $(PLATFORMS); do \
		export CGO_ENABLED=0 GOAMD64=v1 GOARM64=v8.0 GOOS=$${p%/*} GOARCH=$${p#*/}; \
		$(call program,inject,$(SMALL),$(IMAGES)/bin/$$p/); \
		$(call program,injectd,$(TAGS),$(IMAGES)/bin/$$p/); \
	done
	$(plain_go); deploy/rootfs.sh $(IMAGES)/rootfs $(IMAGES)/bin/*/*/*
	$(plain_go); cd tools/image && $(GO) build -trimpath -buildvcs=false -o $(abspath $(IMAGES))/bin/image .
	for name in inject injectd; do \
		$(IMAGES)/bin/image layout -o $(IMAGES)/$$name -name $$name -files $(IMAGES)/rootfs -version $(VERSION) -revision "$(REVISION)" \
			-created $(SOURCE_DATE_EPOCH) -source "$(SOURCE)" $(IMAGES)/bin/*/*/$$name || exit; \
	done

e2e: ## test inject in the pods of a real Kubernetes, which it builds first (root, Linux)
	deploy/e2e/test.sh

e2e-long: ## start 100 pods while the servers of the chart are killed, upgraded, rolled back and drained
	E2E_PODS=100 deploy/e2e/test.sh faults

bench-start: ## measure how long pods take to start, with an init container or a volume of the image and without inject (as e2e)
	E2E_ROUNDS=$(if $(ONCE),1,30) deploy/e2e/test.sh start

OLDEST = INJECT_TEST_NO_SKIP=1 INJECT_TEST_KUBE_APISERVER=$(CURDIR)/bin/oldest/kube-apiserver

# TestControllers needs controllers of the API server's version, which are built for the newest only.
e2e-oldest: ## test what talks to Kubernetes with the API server of the oldest release that we support, 1.30
	deploy/e2e/build.sh oldest bin/oldest
	deploy/e2e/build.sh helm bin helm
	deploy/e2e/build.sh helm3 bin/helm3 helm
	$(OLDEST) $(GO) test -count 1 ./resolver/kubeapi ./resolver/store/kube
	$(OLDEST) $(GO) test -count 1 -short -skip '^TestControllers$$' ./deploy/chart ./resolver/serve/certs ./resolver/serve/kube/...

clean: ## remove bin
	rm -rf bin
