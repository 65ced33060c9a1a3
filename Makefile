# SPDX-License-Identifier: LGPL-2.1-or-later
# A thin front for CMake and CTest: what a newcomer types.  HACKING.md tells the rest.
JOBS ?= $(shell nproc)

CMAKE_QUIET = --log-level=WARNING

# One step after the other, also under make -j; the steps themselves use all processors.
.NOTPARALLEL:
# CMake runs make in turn; which directory that is in is of no interest.
MAKEFLAGS += --no-print-directory
.PHONY: all build build-asan test soak demo install deps
all: build

# Packages from Debian; nothing to do when they are there.
deps:
	@./packaging/install-build-deps

build: deps
	@echo "== Build in build/"
	@cmake --preset dev $(CMAKE_QUIET)
	@cmake --build --preset dev -j $(JOBS)

# The unit tests again, with the address and undefined-behaviour sanitizers.
build-asan: deps
	@echo "== Build of the unit tests with sanitizers in build-asan/"
	@cmake --preset asan+ubsan $(CMAKE_QUIET)
	@cmake --build --preset asan+ubsan -j $(JOBS) --target unit_tests

test: build build-asan
	@echo "== Unit tests with sanitizers"
	@ctest --preset asan+ubsan -L unit --no-label-summary -j $(JOBS)
	@echo "== All tests"
	@ctest --preset dev --no-label-summary -j $(JOBS)

# Hours: millions of crash states, every kill and fault, the mutations.  What it says is kept.
soak: build
	@ctest --preset dev -C soak -L soak --verbose -O build/soak.log

demo: build
	@./packaging/demo build

install:
	@cmake --install build
