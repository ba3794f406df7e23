# Thin: each target calls one script. Needs root, and on the host only what
# pxe/prerequisites installs; everything is built and run inside the toolbox.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help prerequisites toolbox build asan test test-vm test-soak demo bench format check-format shell clean distclean

help:
	@echo 'make demo          a cluster on this machine, and a migration in it (KEEP=1 leaves it up)'
	@echo 'make test          build, check and test everything (JOBS=N cluster tests at once)'
	@echo 'make test-vm       the kernel module, RDMA and a cluster of virtual machines (20 to 40 minutes);'
	@echo '                   VM_KERNELS="trixie sid" only on these'
	@echo 'make test-soak     what takes hours: a kernel with its own checks, failures over RDMA'
	@echo 'make build         build into build/release, install into build/install'
	@echo 'make asan          the same with address and undefined-behaviour sanitizers, in build/asan'
	@echo 'make bench         measure against targets, CRIU alone and native /proc (20 minutes)'
	@echo 'make format        reformat the C++ sources; check-format only complains'
	@echo 'make shell         a shell in the toolbox: sources at /src, build output at /build'
	@echo 'make clean         remove build/; distclean also the cached toolbox and all sandboxes'
	@echo
	@echo 'NO_INSTALL=1       say which host packages are missing instead of installing them'
	@echo 'GESTALT_CACHE=DIR  where the toolbox and ccache live (/var/cache/gestalt)'

prerequisites:
	@pxe/prerequisites

toolbox: prerequisites
	@pxe/toolbox build

build: toolbox
	@pxe/build release

asan: toolbox
	@pxe/build asan

test: toolbox
	@tests/run

test-vm: toolbox
	@tests/vm/run $(addprefix --kernel ,$(VM_KERNELS))

test-soak: toolbox
	@tests/vm/run --soak

demo: toolbox
	@pxe/build product
	@KEEP=$(KEEP) pxe/demo

bench: build
	@bench/run

format: toolbox
	@pxe/format

check-format: toolbox
	@pxe/format --check

shell: toolbox
	@pxe/toolbox run -- bash

clean:
	rm -rf build

distclean: clean
	@pxe/sandbox down --all
	@pxe/toolbox clean --all
