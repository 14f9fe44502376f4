# Short names for what is done often. What is checked, and how, is in .ci/run.

PKG ?= ./async ./internal/asyncq

.DEFAULT_GOAL := help
.PHONY: help build test race lint docs fuzz bench integration ci

help: ## list these targets
	@sed -nE 's/^([a-z]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

build: ## build the commands into bin/
	CGO_ENABLED=0 go build -o bin/ ./cmd/tensorferry
	CGO_ENABLED=0 go build -C flink -o ../bin/ ./cmd/tensorferry-flink

test: ## run the tests that need nothing but Go
	go test ./...

race: ## run them under the race detector
	.ci/run race

lint: ## run the linters
	.ci/run gofmt lint

docs: ## check widths, and what the documents say of the code
	.ci/run columns
	go test ./integration ./job ./async/asynctest -run 'Docs|Documents|Conformance|References'

fuzz: ## fuzz every target; FUZZ_RUNS is how many inputs each gets
	.ci/run fuzz

bench: ## run the benchmarks of PKG
	go test -run '^$$' -bench . -benchtime 0.5s $(PKG)

integration: ## run the tests against other servers, Kafka and Flink
	.ci/run integration flink_cluster

ci: ## check everything
	.ci/run
