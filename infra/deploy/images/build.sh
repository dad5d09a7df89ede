#!/usr/bin/env bash
# Build an image from this checkout: build.sh curate|cpu|train [further options of docker build].
# The tag is clipline-KIND:VERSION, the version that of pyproject.toml.
set -euo pipefail

kind=${1:?"which: curate, cpu or train"}
shift
cd "$(dirname "$0")/../../.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)

DOCKER_BUILDKIT=1 docker build \
  --file infra/deploy/images/Dockerfile \
  --build-arg "KIND=$kind" --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
  --tag "clipline-$kind:$version" \
  "$@" .
