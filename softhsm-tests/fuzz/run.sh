#!/usr/bin/env bash
# Fuzzes what comes from outside: each target of `softhsm-tests/src/fuzzing` for so many seconds (600), or the targets that
# are named behind. Needs cargo-fuzz, which it installs into .tools/ if it is missing; a stable compiler will do.
#
# What is found stays in `artifacts/`. Once it is mended it moves to `regressions/`, which `tests/fuzz_cases.rs` reads.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds="${1:-600}"
targets=("${@:2}")
[ "${#targets[@]}" -gt 0 ] || targets=(protobuf json page_token pkcs12 pem csr_answer configuration)
root="$PWD/.tools/cargo-fuzz"
[ -x "$root/bin/cargo-fuzz" ] || cargo install --quiet --locked --root "$root" cargo-fuzz
export PATH="$root/bin:$PATH"

seeds="$(mktemp -d)"
trap 'rm -rf "$seeds"' EXIT
cargo run --quiet --locked -p softhsm-tests --example fuzz_seeds -- "$seeds"
for target in "${targets[@]}"; do
    mkdir -p "softhsm-tests/fuzz/corpus/$target"
    # Without a sanitizer, since there is no unsafe code of ours to look after.
    cargo fuzz run --fuzz-dir softhsm-tests/fuzz --sanitizer none "$target" "softhsm-tests/fuzz/corpus/$target" "$seeds/$target" -- \
        -max_total_time="$seconds" -timeout=120 -rss_limit_mb=2048 -max_len=16384
done
