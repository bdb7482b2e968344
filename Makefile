# make demo   the whole system, shown from bare        make test   every test, with a closing line
# make build  the programs, optimised                   make lint   format and clippy, as CI has them
# make soak   what needs many repetitions (hours)       make deps   Debian packages that are missing
# make fuzz   each fuzz target for a minute             make bare   README's commands in a fresh root (half an hour)
.PHONY: all deps build test demo soak lint fuzz bare

all: build

deps:
	@scripts/install-deps

build: deps
	cargo build --release --workspace --bins

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings

# Scripts install what they need themselves: a bare machine has no make.
test:
	@scripts/run-tests

demo:
	@scripts/demo

soak:
	@scripts/run-tests --soak

fuzz:
	@scripts/fuzz

bare: deps
	@scripts/bare
