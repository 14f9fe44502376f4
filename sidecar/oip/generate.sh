#!/usr/bin/env bash
# Writes inference.pb.go and inference_grpc.pb.go from the .proto file.
# Usage: generate.sh [FOLDER]; the default is this folder. Nothing but Go is
# needed: buf and protoc-gen-go-grpc are pinned in tools/go.mod, protoc-gen-go is
# built from the module's own protobuf, so generator and runtime always agree.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
out=$(mkdir -p "${1:-.}" && cd "${1:-.}" && pwd)
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT

go build -o "$bin/" google.golang.org/protobuf/cmd/protoc-gen-go
go build -C ../../tools -o "$bin/" google.golang.org/grpc/cmd/protoc-gen-go-grpc github.com/bufbuild/buf/cmd/buf
PATH="$bin:$PATH" buf generate --output "$out"
