# Holdfast: `make cluster` for three local nodes, `make test` for everything a change must pass.
# The verbs are thin; the work is in `holdfast local …` and cargo.

CARGO ?= cargo
BIN := target/release
HOLDFAST := $(BIN)/holdfast
NODES ?= 3
SECONDS ?= 10
KEYS ?= 10000000
REPORT ?= target/bench-engine-report

.DEFAULT_GOAL := help
.PHONY: help build cluster stop wipe start kill pause resume restart pids status logs \
        test lint verify fix bench bench-engine storm-storage simulate campaign determinism \
        leases torture availability lifetimes abuse fuzz score defects ci conformance bench-etcd

help: ## list the verbs
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build target/release/{holdfast,holdfastd}
	@$(CARGO) build --release --workspace --bins --quiet
	@test -x $(HOLDFAST) -a -x $(BIN)/holdfastd

cluster: build ## three nodes on this machine, ready to use; keeps data; fine to run twice
	@$(HOLDFAST) local start --nodes $(NODES)

stop: ## stop the local nodes; keeps data
	@if [ -x $(HOLDFAST) ]; then $(HOLDFAST) local stop; fi

wipe: ## stop, then delete the local data
	@if [ -x $(HOLDFAST) ]; then $(HOLDFAST) local wipe; else rm -rf .cluster; fi

start kill pause resume restart: ## one local node: make kill NODE=2
	@test -n "$(NODE)" || { echo "say which node: make $@ NODE=1" >&2; exit 2; }
	@$(HOLDFAST) local $@ $(NODE)

pids: ## lines "NODE PID" of the running local nodes
	@$(HOLDFAST) local pids

status: ## state of the local nodes; exit 0 only if all are healthy
	@$(HOLDFAST) local status

logs: ## log of one local node: make logs NODE=1
	@$(HOLDFAST) local logs $(NODE)

test: ## everything a change must pass
	@CARGO="$(CARGO)" tests/run

lint: ## formatting, clippy, documentation warnings; never writes
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --release --workspace --all-targets --quiet -- -D warnings
	@$(CARGO) clippy --release --manifest-path tests/storm-storage/Cargo.toml \
		--target-dir target/storm-storage --all-targets --quiet -- -D warnings
	@$(CARGO) clippy --release --manifest-path tests/defects/Cargo.toml \
		--target-dir target/storm-storage --bins --quiet -- -D warnings
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --workspace --no-deps --quiet

verify: lint test ## lint and test; never writes

fix: ## format and apply clippy's suggestions
	@$(CARGO) clippy --release --workspace --all-targets --fix --allow-dirty --allow-staged --quiet
	@$(CARGO) fmt --all

bench: ## throughput, latency, CPU per operation beside a gRPC echo, own nodes (SECONDS=10 per cell)
	@$(CARGO) build --profile dist --workspace --bins --quiet
	@target/dist/holdfast bench suite --seconds $(SECONDS)

simulate: ## one seed on simulated network, time and disks, with its trace: make simulate SEED=7
	@$(CARGO) run --release --quiet -p holdfast-testkit --example simulate -- replay $(or $(SEED),1)

campaign: ## many seeds; what fails is kept in target/simulate (RUNS= SEED=first SECONDS_EACH=)
	@$(CARGO) run --release --quiet -p holdfast-testkit --example simulate -- \
		campaign $(or $(RUNS),200) $(or $(SEED),1) $(SECONDS_EACH)

leases: ## no stale read under wrong clocks, pauses, restarts (SCHEDULES= SEED=first)
	@$(CARGO) run --release --quiet -p holdfast-testkit --example simulate -- \
		leases $(or $(SCHEDULES),5000) $(SEED)

determinism: ## same seed, same trace to the byte, in two processes (SEEDS= SEED=first)
	@$(CARGO) run --release --quiet -p holdfast-testkit --example simulate -- \
		same $(or $(SEEDS),4) $(SEED)

torture: ## real processes under every workload and nemesis (MINUTES=10 SEED= ONLY=kind,kind)
	@$(CARGO) build --release --workspace --bins --quiet
	@$(CARGO) build --release --quiet -p holdfast-server --examples
	@$(CARGO) run --release --quiet -p holdfast-tests --example torture -- \
		run --minutes $(or $(MINUTES),10) --seed $(or $(SEED),1) $(if $(ONLY),--only $(ONLY))

availability: ## how long no write succeeds after a fault (EVENTS=30 of each, ONLY=kill,pause,…)
	@$(CARGO) build --release --workspace --bins --quiet
	@$(CARGO) run --release --quiet -p holdfast-tests --example torture -- \
		availability --events $(or $(EVENTS),30) $(if $(ONLY),--only $(ONLY))

lifetimes: ## leases of real processes that end early or late (GRANTS=5000 SEED=)
	@$(CARGO) build --release --workspace --bins --quiet
	@$(CARGO) run --release --quiet -p holdfast-tests --example torture -- \
		leases --grants $(or $(GRANTS),5000) --seed $(or $(SEED),1)

abuse: ## memory of nodes that are given more than they can take (FOR=60 seconds, SEED=)
	@$(CARGO) build --release --workspace --bins --quiet
	@$(CARGO) run --release --quiet -p holdfast-tests --example torture -- \
		abuse --seconds $(or $(FOR),60) --seed $(or $(SEED),1)

fuzz: ## decoders of engine and journal, mutated inputs (ROUNDS=20000 each)
	@ROUNDS=$(or $(ROUNDS),20000) $(CARGO) test --release --quiet -p holdfast-lsm \
		-p holdfast-journal --lib fuzz

score: ## the scorecard, all of it or PARTS="torture leases …", written to tests/score (SEED=)
	@$(CARGO) build --release --workspace --bins --quiet
	@$(CARGO) build --release --quiet -p holdfast-server -p holdfast-testkit -p holdfast-tests --examples
	@$${CARGO_TARGET_DIR:-target}/release/examples/score --seed $(or $(SEED),1) $(PARTS)

defects: ## every seeded defect, under the scenario that is to catch it (NAMES="..." for some)
	@CARGO="$(CARGO)" tests/defects/run $(NAMES)

conformance: ## the etcd API held against etcd itself, with its clients (SEEDS=10 ONLY=suite)
	@CARGO="$(CARGO)" tests/conformance/run -seeds $(or $(SEEDS),10) $(if $(ONLY),-only "$(ONLY)")

bench-etcd: ## three nodes of etcd beside three of Holdfast (SECONDS=10 ROUNDS=3 ETCD_REPORT=)
	@CARGO="$(CARGO)" tests/bench-etcd/run -seconds $(SECONDS) -rounds $(or $(ROUNDS),3) \
		-report "$(or $(ETCD_REPORT),$${CARGO_TARGET_DIR:-target}/bench-etcd-report)" \
		$(if $(ONLY),-only "$(ONLY)")

ci: ## what decides whether a change lands
	@.ci/run

storm-storage: ## long crash, fault, kill and peer runs (IMAGES= FAULTS= KILLS= SEED= REPLAY=)
	@CARGO="$(CARGO)" IMAGES="$(IMAGES)" FAULTS="$(FAULTS)" KILLS="$(KILLS)" SEED="$(SEED)" \
		tests/storm-storage/run $(REPLAY)

bench-engine: ## the storage engine beside RocksDB and fjall, restart, expiry (KEYS= REPORT=)
	@CARGO="$(CARGO)" tests/bench-engine/run --keys $(KEYS) --report $(REPORT)
