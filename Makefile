# make demo   the whole system, shown from bare        make test   every test, with a closing line
# make build  the programs, optimised                   make lint   format and clippy, as CI has them
# make soak   what needs many repetitions (hours)       make deps   Debian packages that are missing
# make fuzz   each fuzz target for a minute
.PHONY: all deps build test demo soak lint fuzz

all: build

deps:
	@scripts/install-deps

build: deps
	cargo build --release --workspace --bins

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings

test: deps
	@scripts/run-tests

demo: deps
	@scripts/demo

soak: deps
	@scripts/run-tests --soak

fuzz: deps
	@scripts/fuzz
