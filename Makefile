# Thin over the CMake presets: what a newcomer types. Each target does the ones before it.
#   make          build/quarry
#   make demo     a small trained model, quantized from end to end in minutes
#   make check    the tests
BUILD  := build
PREFIX ?= /usr/local
JOBS   := $(shell nproc)

PACKAGES := build-essential cmake ninja-build pkg-config python3 openmpi-bin libopenmpi-dev \
	libhdf5-dev libyaml-dev libjansson-dev libpcre2-dev libutf8proc-dev libopenblas-dev \
	libcmocka-dev zlib1g-dev libxxhash-dev libssl-dev python3-h5py

.PHONY: all deps build demo check sanitize tsan accuracy clients fuzz format install clean

all: build

# Installs only what is missing, so that it needs neither root nor a network once all is there.
deps:
	@missing=$$(for p in $(PACKAGES); do \
	  dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then \
	  echo "not a Debian or Ubuntu machine: install by hand what corresponds to:" $$missing; exit 1; fi; \
	sudo=$$([ $$(id -u) = 0 ] || echo sudo); echo "installing:" $$missing; \
	log=$$(mktemp); \
	{ $$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	  $$sudo apt-get install -qq -y --no-install-recommends $$missing; } >$$log 2>&1 \
	  || { tail -20 $$log; exit 1; }

build: deps
	@[ -f $(BUILD)/build.ninja ] || cmake --preset cpu -DQUARRY_CUDA=AUTO -DCMAKE_INSTALL_PREFIX=$(PREFIX) >/dev/null
	@cmake --build $(BUILD) -j $(JOBS)

# Two workers with one thread each; the same command continues what is there.
demo: build
	@mpirun $$([ $$(id -u) = 0 ] && echo --allow-run-as-root) --oversubscribe --bind-to none -n 2 \
	  $(BUILD)/quarry run configs/demo.yaml --set resources.threads=1

# Two at a time: some use two cores, others wait.
check: build
	@ctest --test-dir $(BUILD) -j 2 --output-on-failure

# The same tests under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: deps
	@cmake --preset dev >/dev/null && cmake --build --preset dev -j $(JOBS) && ctest --preset dev -j 2

# The tests of what runs beside the main thread, under ThreadSanitizer.
tsan: deps
	@cmake --preset tsan >/dev/null && cmake --build --preset tsan -j $(JOBS) && ctest --preset tsan -j 2

# Runs the table of docs/accuracy.md and writes it anew: over 200 jobs, one after the other, so many hours on two cores
# (`tests/accuracy/run.py --list` and `--only` spread them over machines).
accuracy: build
	@tests/accuracy/run.py --quarry $(BUILD)/quarry --write docs/accuracy.md

# Checks exports with the programs that people load them with (installs them from PyPI and npm).
clients: demo
	@tests/clients/install.sh >/dev/null
	@tests/clients/run.sh $(BUILD)/quarry demo-run
	@tests/clients/gptq.sh $(BUILD)/quarry
	@tests/clients/gguf.sh $(BUILD)/quarry
	@tests/clients/smollm2.sh $(BUILD)/quarry

# Fuzzes every parser for a minute each (FUZZ_SECONDS=…) with clang's libFuzzer, under the sanitizers.
FUZZ_SECONDS ?= 60
fuzz: deps
	@tests/fuzz/run.sh build-fuzz $(FUZZ_SECONDS)

format:
	@git ls-files '*.c' '*.h' '*.cu' '*.cuh' | xargs clang-format -i

install: build
	@cmake --install $(BUILD) --prefix $(PREFIX)

clean:
	@rm -rf build build-dev build-cuda build-cuda-debug build-tsan build-fuzz demo-run
