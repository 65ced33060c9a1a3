# SPDX-License-Identifier: LGPL-2.1-or-later
# A thin front for CMake and CTest: what a newcomer types.  HACKING.md tells the rest.
JOBS ?= $(shell nproc)

.PHONY: all build test demo install deps
all: build

deps:
	./packaging/install-build-deps

build: deps
	cmake --preset dev
	cmake --build --preset dev -j $(JOBS)

test: build
	ctest --preset dev

demo: build
	./packaging/demo build

install:
	cmake --install build
