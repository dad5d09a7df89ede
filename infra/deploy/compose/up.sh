#!/usr/bin/env bash
# Start the services of compose.yaml and wait until they are healthy. Options go to docker compose up: --scale worker=3.
# Secrets are drawn the first time and kept in ./secrets, which git and the image builder ignore.
set -euo pipefail
cd "$(dirname "$0")"

random() { od -An -N 24 -tx1 /dev/urandom | tr -d ' \n'; }

# The folder is closed to others; the files in it are not, because a container's user has another number than ours.
install -d -m 700 secrets
for name in postgres_password ray_token s3_password; do
  [ -s "secrets/$name" ] || random >"secrets/$name"
done
[ -s secrets/s3_user ] || printf clipline >secrets/s3_user
if [ ! -s secrets/aws_credentials ]; then
  printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' \
    "$(cat secrets/s3_user)" "$(cat secrets/s3_password)" >secrets/aws_credentials
fi
chmod 644 secrets/*

if [ "${1:-}" != --secrets-only ]; then
  docker compose up --build --detach --wait "$@"
fi
