# Everything a person types. Each target installs what it needs; `make help` lists them.
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# What is built and fetched is kept here, outside the tree, and used again.
export PERWATT_CACHE ?= $(HOME)/.cache/perwatt
export CARGO_TARGET_DIR ?= $(PERWATT_CACHE)/target
export PERWATT_MODEL_DIR ?= $(PERWATT_CACHE)/speech-gate
export PERWATT_MOTION_DIR ?= $(PERWATT_CACHE)/motion
export PERWATT_MNIST_DIR ?= $(PERWATT_CACHE)/mnist
export PERWATT_WAKE_WORD_DIR ?= $(PERWATT_CACHE)/wake-word
export PERWATT_REFERENCE_DIR ?= $(PERWATT_CACHE)/reference
export PERWATT_ONNXRUNTIME_LIBRARY ?= $(PERWATT_REFERENCE_DIR)/libonnxruntime.so
BIN := $(CARGO_TARGET_DIR)/debug
KUBECONTEXT ?=
IMAGES ?= registry.example/perwatt
NAME ?=

.PHONY: help
help: ## This list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: demo
demo: parts build model ## The whole story on a real two-node cluster on this machine
	@$(BIN)/perwatt-e2e demo

.PHONY: demo-down
demo-down: build ## Remove every trace of the demo's cluster
	@$(BIN)/perwatt-e2e down --name demo

.PHONY: kubeconfig
kubeconfig: build ## How to reach the demo's cluster
	@$(BIN)/perwatt-e2e kubeconfig --name demo

.PHONY: images
images: build model ## Pack the images of the product and of the first model as OCI archives; print names and files
	@$(BIN)/perwatt-e2e images

.PHONY: install
install: ## Install on a cluster you have and serve a first model: make install KUBECONTEXT=name IMAGES=registry/path
	@test -n "$(KUBECONTEXT)" || { echo "make install: say which cluster: make install KUBECONTEXT=name (kubectl config get-contexts lists them)" >&2; exit 2; }
	@for tool in helm kubectl; do command -v $$tool >/dev/null || { echo "make install: $$tool is not on your PATH" >&2; exit 2; }; done
	helm upgrade --install perwatt charts/perwatt --kube-context "$(KUBECONTEXT)" --namespace perwatt-system --create-namespace --set images.repository="$(IMAGES)" --wait
	kubectl --context "$(KUBECONTEXT)" apply --namespace default --filename examples/first/workload.yaml
	kubectl --context "$(KUBECONTEXT)" wait --namespace default inferenceworkload/speech-gate --for=condition=Ready --timeout=180s
	kubectl --context "$(KUBECONTEXT)" get --raw /api/v1/namespaces/default/services/speech-gate:8080/proxy/v2/models/speech-gate

.PHONY: test
test: lint unit clients e2e ## All that CI runs

.PHONY: lint
lint: tools
	@tools/step "format" cargo fmt --all --check
	@tools/step "clippy" cargo clippy --locked --workspace --all-targets -- -D warnings
	@tools/step "licences, bans and sources" tools/deny --log-level error check bans licenses sources

.PHONY: unit
unit: model test-data peers
	@tools/step "unit and property tests" cargo test --locked --workspace

.PHONY: clients
clients: tools python ## The protocol's usual clients (tritonclient, kserve) against the runtime
	@tools/step "usual clients" cargo test --locked --workspace --test clients -- --ignored --nocapture

.PHONY: e2e
e2e: parts build model ## End-to-end tests on real clusters
	@tools/step "end-to-end tests" cargo test --locked --workspace --test e2e -- --ignored --nocapture --test-threads=1
	@tools/step "push to a registry" cargo test --locked --workspace --test push -- --ignored
	@tools/step "the README on a cluster" cargo test --locked --workspace --test install -- --ignored --nocapture
	@tools/step "tests of the cluster itself" cargo test --locked --workspace --test cluster -- --ignored --nocapture --test-threads=1

.PHONY: e2e-full
e2e-full: export PERWATT_E2E_FULL := 1
e2e-full: e2e reference ## Every end-to-end test, and the answers of every backend against its reference

.PHONY: reference
reference: model peers ## Answers of the backends against onnxruntime and LiteRT from PyPI
	@tools/step "answers against the references" cargo test --locked --workspace --test photos --test onnxruntime --test silero --test wake_word

.PHONY: peers
peers: tools
	@tools/step "references" runtime/tests/reference/set-up "$(PERWATT_REFERENCE_DIR)"

# The main job and the agent need a cluster. What else a figure compares with, it installs itself.
.PHONY: bench
bench: $(if $(filter runtime-% planner-% agent-energy canary-%,$(NAME)),,parts) build model ## Figures, as JSON in target/bench (make bench NAME=main-job for one)
	@$(BIN)/perwatt-e2e bench $(NAME)

.PHONY: soak
soak: $(if $(filter simulation,$(NAME)),tools,build) ## 100,000 simulated schedules of the operator, canaries in full, a million requests for each fault of a variant's server: hours (make soak NAME=simulation for one)
	@$(if $(filter-out simulation,$(NAME)),true,tools/step "simulated schedules" cargo test --config profile.dev.opt-level=3 --locked --workspace --test simulation -- --ignored --nocapture)
	@$(if $(filter simulation,$(NAME)),true,$(BIN)/perwatt-e2e soak $(NAME))

MUTANTS ?= 100
.PHONY: release-check
release-check: tools ## Before a release: of 100 mutants of the planner its tests may leave a tenth alive; one to two hours (MUTANTS=20 for fewer)
	@tools/step "mutants of the planner" tools/mutants perwatt-planner $(MUTANTS) 10

FUZZ_COUNT ?= 20000
.PHONY: fuzz
fuzz: build ## Mutated inputs against everything that reads what strangers wrote (make fuzz NAME=onnx FUZZ_COUNT=100000)
	@tools/step "fuzzing" $(BIN)/perwatt-fuzz --count $(FUZZ_COUNT) $(NAME)

.PHONY: crds
crds: ## Write the custom resource definitions of the chart
	cargo run -q --locked -p perwatt-crds -- charts/perwatt/crds

.PHONY: build
build: tools
	@tools/step "build" cargo build --locked --workspace

# Go first, Rust after: both at once would only be slower.
.PHONY: parts
parts: tools
	@e2e/cluster/install
	@tools/step "parts of the cluster" e2e/cluster/build "$(PERWATT_CACHE)"
	@e2e/registry/build "$(PERWATT_CACHE)" >/dev/null

.PHONY: model
model: tools python
	@tools/step "model and recording" examples/speech-gate/fetch "$(PERWATT_MODEL_DIR)"
	@tools/step "wake word" examples/wake-word/fetch "$(PERWATT_WAKE_WORD_DIR)"
	@tools/step "motion" examples/motion/fetch "$(PERWATT_MOTION_DIR)"

# What the unit tests alone read.
.PHONY: test-data
test-data: tools python
	@tools/step "spiking network and digits" runtime/spiking/tests/fetch "$(PERWATT_MNIST_DIR)"

.PHONY: python
python:
	@tools/python

.PHONY: tools
tools:
	@tools/install
