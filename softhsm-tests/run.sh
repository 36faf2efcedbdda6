#!/usr/bin/env bash
# Runs all tests, after installing what they need. Arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."
./softhsm-tests/setup.sh
# Tests in one file run side by side, each with its own token, store and port.
exec cargo test --workspace "$@"
