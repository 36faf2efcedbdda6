#!/usr/bin/env bash
# Runs all tests, after installing what they need. Arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."
./softhsm-tests/setup.sh
# Tests in one file run side by side, each with its own token, store and port.
cargo test --workspace "$@"
# Some of them once more, over the module that fails when told, which is told nothing: what is shown with it is shown of SoftHSM2.
if [ "$#" = 0 ]; then
    module="$(mktemp -d)/passes-on.so"
    ./softhsm-tests/fault-module/build.sh "$module"
    KEYPAIRD_TEST_MODULE="$module" cargo test --workspace --test providers --test sign
fi
