# SPDX-License-Identifier: Apache-2.0
SHELL := /bin/bash -euo pipefail

# The campaign of faults: in a VM, and in one that resets itself.
FAULTS = KMMD_FAULTS=full KMMD_FAULTS_STRIDE=$(STRIDE) KMMD_VM_KERNEL=$(firstword $(KERNELS)) KMMD_VM_CPUS=1 KMMD_VM_TIMEOUT=172800
FAULTS_TEST = $(GO) test -v -timeout 48h -count=1 -exec "$(CURDIR)/test/vm/exec" ./test/vm/faults
FAMILY ?= .
STRIDE ?= 1

# Which kernels `make vm` boots, and how many VMs side by side. What is about the kernel runs on every one, the rest on the first
# of them; FULL=1 runs all on each.
KERNEL ?= all
KERNELS := $(if $(filter all,$(KERNEL)),6.1 6.12,$(KERNEL))
FULL ?=
VM_JOBS ?= $(shell echo $$(($$(nproc) + 1)))
BRIEF_KERNELS = $(if $(FULL),,$(wordlist 2,9,$(KERNELS)))
GO ?= go

# How long `make fuzz` looks at each target, and in which packages; how many `make fuzz-short` has side by side.
FUZZ_TIME ?= 1m
FUZZ_JOBS ?= 8
PACKAGES ?= ./pkg/... ./cmd/...

# How often `make again` runs all tests.
RUNS ?= 20

# How many changes `make soak` makes, and which.
STEPS ?= 2000
SEED ?= $(shell date +%s)
export CGO_ENABLED = 0
# Everywhere, or packages are compiled twice: for what ships, and for the tests.
export GOFLAGS := -trimpath $(filter-out -trimpath,$(GOFLAGS))

# How many nodes `make cluster` plays.
NODES ?= 3

.PHONY: help setup setup-vm setup-cluster build test again unit lab vm cluster-test cluster bench faults bench-images bench-node bench-cluster soak fuzz fuzz-short lint vuln licences gen demo images packages release-test systemd-test setup-e2e e2e clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: setup-vm setup-cluster ## what the tests need, in .lab/

setup-vm: ## Debian packages, two kernels, test modules (apt as root)
	test/vm/setup
	test/vm/crun

setup-cluster: ## a Kubernetes control plane, built from source the first time (some minutes), and helm
	test/cluster/setup
	test/cluster/helm/setup

build: ## bin/kmmd and bin/kmm-watcher, static
	$(GO) build -o bin/ ./cmd/kmmd ./cmd/kmm-watcher
	for program in kmmd kmm-watcher; do cmp -s bin/$$program .lab/bin/$$program || install -D -t .lab/bin bin/$$program; done

# The control plane is built meanwhile, once what it has in common with our programs is compiled. VMs and clusters both wait
# at times: side by side they keep the processors busy.
test: ## everything: setup, unit, lab, vm on both kernels, cluster, systemd; what passed with the very same files not again, but with FRESH=1
	@test/stages setup-vm build "setup-cluster&" unit vm+ lab setup-cluster cluster-test systemd-test vm

unit: ## tests without root and network; those that read real kernels do so once setup has run
	CGO_ENABLED=1 $(GO) test -race $$($(GO) list ./... | grep -vE '/test/(vm|cluster)(/|$$)') ./test/vm/ovmf
	$(GO) test ./pkg/confine ./pkg/kernel # as they ship, without the C library
	test ! -f .lab/kernels || KMMD_LAB="$(CURDIR)/.lab" $(GO) test -run '^TestLab' ./pkg/...

vm: setup-vm build ## tests on real kernels, each in VMs of its own, side by side: KERNEL=6.1, 6.12 or all; FULL=1: all on each
	@$(GO) list -export -deps -test ./test/vm/... >/dev/null # compiled once, and not by several at a time
	@$(MAKE) --no-print-directory -f test/vm/jobs.mk -k -j $(VM_JOBS) --output-sync=target \
		GO="$(GO)" KERNELS="$(KERNELS)" BRIEF_KERNELS="$(BRIEF_KERNELS)"

lab: setup-vm build ## tests of the lab: failures, panics and time-outs are seen, nothing is left behind; and make demo
	test/vm/selftest
	test/vm/demo

cluster-test: setup-vm setup-cluster build ## tests against a real API server, scheduler and controllers; two with a node in a VM
	KMMD_CLUSTER="$(CURDIR)/.lab/cluster/bin" $(GO) test -timeout 20m -count=1 -p 2 -parallel 4 ./test/cluster/...

cluster: setup-cluster build ## a control plane, kmm-watcher and played nodes to try things by hand, until Ctrl-C: NODES=5
	@$(GO) build -o .lab/cluster/run ./test/cluster/run
	@exec .lab/cluster/run -nodes $(NODES)

again: ## all tests anew, RUNS times or until a run fails, a line for each in test/runs.txt: is one of them flaky?
	test/again $(RUNS)

bench: ## benchmarks
	KMMD_LAB="$$(test ! -f .lab/kernels || echo $(CURDIR)/.lab)" $(GO) test -run '^$$' -bench . -benchmem ./pkg/...

faults: setup-vm build ## kills, power cuts, full disks, registries in trouble at each step: hours; KERNEL=6.12, FAMILY=TestKill, STRIDE=7 for a part
	KMMD_FAULTS=full $(GO) test -v -timeout 2h -count=1 ./test/faults/...
	$(FAULTS) KMMD_VM_DISKS=16 $(FAULTS_TEST) -run "$(FAMILY)"
	$(FAULTS) KMMD_VM_DISKS="16 64" KMMD_VM_RESETS=1 $(FAULTS_TEST) -run TestCut

bench-images: setup-vm ## what a large image costs: kmmd, skopeo, buildah, containerd in turns (as root; half an hour on an idle machine)
	test/bench/images/run $(BENCH_FLAGS)

bench-node: setup-vm ## document to live module against finit_module and modprobe, a kmmd at rest: in VMs (an hour on an idle machine)
	test/bench/node/run $(BENCH_FLAGS)

bench-cluster: setup-cluster ## what 1,000 and 5,000 nodes cost the API server and kmm-watcher (some 12 minutes)
	test/bench/cluster/run $(BENCH_FLAGS)

soak: setup-vm build ## 2,000 random changes in a VM, all looked at after each (an hour or more): SEED=, STEPS=, KERNEL=6.12
	KMMD_VM_KERNEL=$(if $(filter all,$(KERNEL)),6.1,$(KERNEL)) KMMD_VM_CPUS=1 KMMD_VM_TIMEOUT=86400 KMMD_SOAK_SEED=$(SEED) KMMD_SOAK_STEPS=$(STEPS) \
		$(GO) test -timeout 24h -count=1 -v -run TestSoak -exec "$(CURDIR)/test/vm/exec" ./test/vm/soak

fuzz: ## each fuzz target for FUZZ_TIME, one on each processor: PACKAGES=./pkg/images/... or FUZZ='kmod Fuzz(Parse|Config)' for some
	@GO="$(GO)" test/fuzz -j "$$(nproc)" -t '$(FUZZ)' $(FUZZ_TIME) $(PACKAGES)

fuzz-short: ## all fuzz targets for 20 s each, FUZZ_JOBS side by side
	@GO="$(GO)" test/fuzz -j $(FUZZ_JOBS) 20s $(PACKAGES)

lint: licences ## golangci-lint (built from source the first time), gofmt, who may import whom; licences; known vulnerabilities
	$(GO) tool -modfile=tools/go.mod golangci-lint run ./...
	$(call VULN,,)

# Known vulnerabilities of what is linked. The list is the Go vulnerability database as a module: of the version in
# tools/vulndb/go.mod, or the newest.
CHECK = $(CURDIR)/.lab/check
VULN = $(GO) build -o "$(CHECK)/" ./cmd/kmmd ./cmd/kmm-watcher && \
	"$(CHECK)/vuln" $(2) -db "$$($(GO) -C tools/vulndb mod download -json golang.org/x/vulndb$(1) | sed -n 's/.*"Dir": "\(.*\)",/\1/p')/data/osv" \
		"$(CHECK)/kmmd" "$(CHECK)/kmm-watcher"

vuln: licences ## known vulnerabilities by the newest list, those of Go's standard library counted: before a release
	$(call VULN,@latest,-std)

licences: ## whether all that is linked may be shipped
	$(GO) -C tools/check build -o "$(CHECK)/" ./vuln ./licences
	$(GO) -C tools/check vet ./...
	$(GO) -C tools/check test ./...
	"$(CHECK)/licences" ./cmd/kmmd ./cmd/kmm-watcher

gen: ## generated files: deepcopy, CustomResourceDefinitions, docs/reference, kmmd.toml of the packages
	$(GO) generate ./...

demo: setup-vm build ## an in-tree module replaced by one out of an image, in a VM
	test/vm/demo

# What ships: programs for both architectures, of the commit, not of the work tree.
DIST = $(CURDIR)/dist
AT_COMMIT = GO=$(GO) tools/release/at-commit "GO=$(GO)" "DIST=$(DIST)" "ARCHES=$(ARCHES)" "KINDS=$(KINDS)"
ARCHES = amd64 arm64
KINDS = deb rpm

images: ## dist/images: OCI layouts of kmmd and kmm-watcher with SPDX bills of materials; PUSH=registry.example/kmm pushes them
	$(AT_COMMIT) "PUSH=$(PUSH)" ship-images

packages: ## dist/packages: deb and rpm of kmmd for amd64 and arm64
	$(AT_COMMIT) ship-packages

.PHONY: ship-programs ship-images ship-packages
ship-programs:
	rm -rf "$(DIST)/bin"; for arch in $(ARCHES); do \
		GOARCH=$$arch $(GO) build -buildvcs=true -ldflags '-s -w' -o "$(DIST)/bin/$$arch/" ./cmd/kmmd ./cmd/kmm-watcher; \
	done

ship-images: ship-programs
	$(GO) -C tools/release run ./images -programs "$(DIST)/bin" -out "$(DIST)/images" -push "$(PUSH)"

ship-packages: ship-programs
	GO=$(GO) tools/release/pages "$(DIST)"
	GO=$(GO) tools/release/packages "$(DIST)" $(KINDS)

release-test: images packages ## tests of images and packages: what is in them, and that they come out the same twice
	dpkg-query -W rpm systemd >/dev/null || apt-get install -y -qq --no-install-recommends rpm systemd
	KMMD_DIST="$(DIST)" $(GO) -C tools/release test -timeout 30m -count=1 ./...

systemd-test: setup-vm ## a VM that systemd boots, with the package: the driver comes before network and kubelet
	$(MAKE) --no-print-directory packages ARCHES=amd64 KINDS=deb "DIST=$(CURDIR)/.lab/dist"
	GO=$(GO) test/vm/systemd/run .lab/dist/packages/kmmd_*_amd64.deb

setup-e2e: setup-vm setup-cluster build ## what `make e2e` needs besides: kubelet and containerd from source, a Debian for nodes
	GO=$(GO) test/e2e/setup

# The report is what docs/e2e.md has at its end.
e2e: setup-e2e images ## everything that ships, on real kubelets and containerd in two VMs (docs/e2e.md): REPORT=yes rewrites its last run
	KMMD_LAB="$(CURDIR)/.lab" KMMD_CLUSTER="$(CURDIR)/.lab/cluster/bin" KMMD_E2E_REPORT="$(CURDIR)/.lab/e2e/report.md" \
		$(GO) test -timeout 60m -count=1 -v -exec "$(CURDIR)/test/e2e/net" ./test/e2e
	test -z "$(REPORT)" || { sed -i '/^## The last run$$/q' docs/e2e.md && { printf '\nOf commit %s, %s.\n\n' "$$(git rev-parse --short=12 HEAD)" "$$(date +%F)"; cat .lab/e2e/report.md; } >>docs/e2e.md; }

clean: ## remove bin/, dist/ and .lab/
	rm -rf bin dist .lab
