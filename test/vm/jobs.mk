# SPDX-License-Identifier: Apache-2.0
#
# jobs.mk: all tests in VMs as jobs of make, which runs several side by side and shows what each said when it has ended. For
# make vm, which says where GO is, and which KERNELS, of which BRIEF_KERNELS have only what is about the kernel.
#
# The job 6.12/node is the package test/vm/node on that kernel. The kernels that have everything have one processor:
# emulated, that is a third cheaper. The others have two, and KMMD_VM_BRIEF (test/vm/guest).
SHELL := /bin/bash -euo pipefail
MAKEFLAGS += --no-builtin-rules
GO ?= go
TEST = $(GO) test -timeout 42m -count=1 -exec "$(CURDIR)/test/vm/exec"

# The longest first: so all end at about the same time. test/vm/node is two VMs.
LONG := node-1 node-2 boots faults devices kernel soak
OF_KERNEL := node-1 node-2 boots devices kernel lab preflight secureboot
PACKAGES := $(notdir $(shell $(GO) list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./test/vm/...))
ALL := $(LONG) $(filter-out $(LONG) node ovmf,$(PACKAGES)) moredevices
JOBS := $(foreach job,$(ALL),$(foreach kernel,$(KERNELS),$(if $(filter $(kernel),$(BRIEF_KERNELS)),$(filter $(addprefix $(kernel)/,$(OF_KERNEL)),$(kernel)/$(job)),$(kernel)/$(job))))

FIRST_OF_NODE := ^Test[A-P]
RUN_boots = GO=$(GO) test/vm/boots
RUN_node-1 = $(TEST) -run '$(FIRST_OF_NODE)' ./test/vm/node
RUN_node-2 = $(TEST) -skip '$(FIRST_OF_NODE)' ./test/vm/node
RUN_moredevices = KMMD_VM_QEMU="$(MORE_DEVICES)" $(TEST) -tags moredevices -run "TestNamesExchanged|TestVirtualFunctions|TestDiskOfSubsystem" ./test/vm/devices
MORE_DEVICES = -machine q35 -netdev user,id=n1 -device virtio-net-pci,netdev=n1,romfile= \
	-device pcie-root-port,id=r0 -device nvme-subsys,id=s0 -device nvme,id=c0,serial=a,subsys=s0,bus=r0,sriov_max_vfs=2,sriov_vq_flexible=4,sriov_vi_flexible=2,max_ioqpairs=6,msix_qsize=7 \
	-drive if=none,id=d0,snapshot=on,file.driver=null-co,file.size=64M,file.read-zeroes=on,format=raw -device nvme-ns,drive=d0,bus=c0

export KMMD_VM_DISKS = 16
export KMMD_VM_FILES = .lab/crun deploy/base/agent.yaml
export KMMD_VM_TIMEOUT = 2400

.PHONY: all $(JOBS)
all: $(JOBS)

$(JOBS):
	@export KMMD_VM_KERNEL=$(@D) KMMD_VM_NAME=test-vm-$(@F) $(if $(filter $(@D),$(BRIEF_KERNELS)),KMMD_VM_BRIEF=1,KMMD_VM_CPUS=1); \
	TIMEFORMAT='$@ %R s (%U)'; time { $(or $(RUN_$(@F)),$(TEST) ./test/vm/$(@F)); }
