#!/usr/bin/env bash
# The quickstart on the services of compose.yaml: from a web site to a model in MLflow, over the head and its workers.
# Options go to clipline run: demo.sh --set images=500.
set -euo pipefail
cd "$(dirname "$0")"
./up.sh

# The demo's web site listens in the head's container, at an address that the workers reach.
# shellcheck disable=SC2016 # the container's shell is to expand it
docker compose exec --env RAY_ADDRESS=head:6379 head \
  bash -c 'exec clipline run quickstart --set "host=$(hostname -i | cut -d " " -f 1)" "$@"' run "$@"
echo "MLflow: http://localhost:5000   Ray: http://localhost:8265, with the token in $PWD/secrets/ray_token"
