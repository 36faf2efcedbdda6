#!/usr/bin/env bash
# Runs test binaries again and again, and counts how often each test failed: a test that fails once in fifty runs is a
# fault of the daemon or of the test, and neither shows in a single run.
#
#   softhsm-tests/repeat.sh [--load] TIMES BINARY...      for example: repeat.sh --load 50 hostile faults
#
# --load keeps every processor busy meanwhile. The last line of each binary is "BINARY: N runs, N failed"; the
# output of failed runs stays in the folder named at the start. Exits 1 when anything failed.
set -euo pipefail
cd "$(dirname "$0")/.."

load=""
if [ "${1:-}" = --load ]; then
    load=yes
    shift
fi
if [ "$#" -lt 2 ] || ! [ "$1" -gt 0 ] 2>/dev/null; then
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
times=$1
shift

logs="$(mktemp -d)"
echo "output of failed runs: $logs"
names=()
for binary in "$@"; do names+=(--test "$binary"); done
cargo test --locked --workspace --no-run --quiet "${names[@]}"

burners=()
end_burners() {
    [ "${#burners[@]}" = 0 ] || kill "${burners[@]}" 2>/dev/null || true
}
trap end_burners EXIT
if [ -n "$load" ]; then
    for _ in $(seq "$(nproc)"); do
        (while :; do :; done) &
        burners+=($!)
    done
fi

all_well=yes
for binary in "$@"; do
    failed=0
    for run in $(seq "$times"); do
        log="$logs/$binary-$run"
        if cargo test --locked --workspace --quiet --test "$binary" >"$log" 2>&1; then
            rm "$log"
        else
            failed=$((failed + 1))
            all_well=""
            grep -E '^    [a-z_:0-9]+$' "$log" | sort -u | sed "s/^ */$binary run $run failed: /" || true
        fi
    done
    echo "$binary: $times runs, $failed failed"
done
[ -n "$all_well" ]
