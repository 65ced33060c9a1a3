# SPDX-License-Identifier: LGPL-2.1-or-later
# A thin front for CMake and CTest: what a newcomer types.  HACKING.md tells the rest.
JOBS ?= $(shell nproc)
# How long `make fuzz` takes for each of its targets.
FUZZ_SECONDS ?= 600

CMAKE_QUIET = --log-level=WARNING

# One step after the other, also under make -j; the steps themselves use all processors.
.NOTPARALLEL:
# CMake runs make in turn; which directory that is in is of no interest.
MAKEFLAGS += --no-print-directory
.PHONY: all build build-asan build-fuzz test fuzz tsan coverage soak bench bench-quick demo install deb deps
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

# The fuzz targets; clang or not is for the tests to say.
build-fuzz: deps
	@if command -v clang >/dev/null; then \
	    echo "== Build of the fuzz targets in build-fuzz/"; \
	    cmake --preset fuzz $(CMAKE_QUIET) && cmake --build --preset fuzz -j $(JOBS); \
	else \
	    echo "== No clang: no fuzz targets"; \
	fi

test: build build-asan build-fuzz
	@echo "== Unit tests with sanitizers"
	@ctest --preset asan+ubsan -L unit --no-label-summary -j $(JOBS)
	@echo "== All tests"
	@ctest --preset dev --no-label-summary -j $(JOBS)

# Longer than `make test` has time for.
fuzz: build-fuzz
	@for target in load commit repair frames yaml; do \
	    echo "== Fuzzing: $$target, $(FUZZ_SECONDS) s"; \
	    ./tests/fuzz/run $$target $(FUZZ_SECONDS) || exit; \
	done

# The unit tests of what runs in threads, with the thread sanitizer.
tsan: deps
	@cmake --preset tsan $(CMAKE_QUIET)
	@cmake --build --preset tsan -j $(JOBS) --target unit_tests
	@ctest --preset tsan --no-label-summary -j $(JOBS)

# How many lines all tests run, by folder.
coverage: deps
	@cmake --preset coverage $(CMAKE_QUIET)
	@cmake --build --preset coverage -j $(JOBS)
	@find build-coverage -name '*.gcda' -delete
	@ctest --preset coverage --no-label-summary -j $(JOBS) -LE fuzz
	@./tests/coverage.py build-coverage

# Hours: millions of crash states, every kill and fault, the mutations.  What it says is kept.
soak: build
	@ctest --preset dev -C soak -L soak --verbose -O build/soak.log

# bitmapd beside redis, QEMU and the bare disk; the last line is the path of the rows as JSON.
# A few of them only: tests/bench/bench.py build-release ROW-PREFIX ….
BENCH_TARGETS = bitmapd bitmapctl bench_load bench_reference bench_probe
bench bench-quick:
	@./packaging/install-build-deps --bench
	@cmake --preset release $(CMAKE_QUIET)
	@cmake --build --preset release -j $(JOBS) --target $(BENCH_TARGETS)
	@./tests/bench/bench.py $(if $(filter bench-quick,$@),--quick) build-release

demo: build
	@./packaging/demo build

install:
	@cmake --install build

# Debian packages in build-deb/, of the tree as it is.  No tests are run.
deb: deps
	@./packaging/build-deb
