#!/usr/bin/env bash
# Shows keypaird's main job on this machine: a SoftHSM2 token, the daemon in hybrid mode, one key pair in the HSM and
# one in software. Stays in the foreground until Ctrl-C; with --once it ends after the demonstration.
#
# Everything it makes is in .quickstart/ (or $QUICKSTART_HOME). A second run goes on with the same token, store and
# keys; remove the folder to begin anew. QUICKSTART_LISTEN changes the address, 127.0.0.1:9443.
set -euo pipefail
cd "$(dirname "$0")/.."

once=false
case "${1:-}" in
    "") ;;
    --once) once=true ;;
    *) echo "usage: deploy/quickstart.sh [--once]" >&2; exit 2 ;;
esac
if [ -t 1 ]; then bold=$'\033[1m' plain=$'\033[0m'; else bold="" plain=""; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

module=""
find_module() {
    for module in /usr/lib/softhsm/libsofthsm2.so /usr/lib64/pkcs11/libsofthsm2.so /usr/local/lib/softhsm/libsofthsm2.so; do
        [ -e "$module" ] && return 0
    done
    return 1
}
if ! find_module; then
    install="apt-get update && apt-get install -y --no-install-recommends softhsm2"
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "Installing SoftHSM2"
        sh -c "DEBIAN_FRONTEND=noninteractive; $install" >/dev/null
        find_module
    else
        echo "SoftHSM2 is missing. Install it, and run this again:" >&2
        echo "    sudo sh -c '$install'" >&2
        exit 1
    fi
fi

say "Building keypaird"
cargo build --bins
bin="${CARGO_TARGET_DIR:-target}/debug"

umask 077
home="${QUICKSTART_HOME:-$PWD/.quickstart}"
mkdir -p "$home/tokens"
export SOFTHSM2_CONF="$home/softhsm2.conf"
printf 'directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n' "$home/tokens" >"$SOFTHSM2_CONF"
cat >"$home/keypaird.toml" <<TOML
[server]
listen = "${QUICKSTART_LISTEN:-127.0.0.1:9443}"

[crypto]
mode = "hybrid"
default_provider = "HSM"

[crypto.pkcs11]
module = "$module"
token_label = "quickstart"
pin_file = "$home/pin"

[crypto.local]
key_encryption_key_file = "$home/key-encryption-key"

[store]
url = "sqlite://$home/keypaird.db"
TOML

# Without a store the daemon has never run here, so a token that is there may be half-made. It is put
# aside and not removed.
if [ ! -e "$home/keypaird.db" ] && [ -n "$(ls -A "$home/tokens")" ]; then
    mv "$home/tokens" "$(mktemp -d "$home/former-tokens.XXXXXX")"
    mkdir "$home/tokens"
fi
if [ -z "$(ls -A "$home/tokens")" ]; then
    say "Making a token"
    for pin in pin so-pin; do
        od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$home/$pin"
    done
    "$bin/keypaird" init-token --config "$home/keypaird.toml" --so-pin-file "$home/so-pin"
fi

say "Starting the daemon in hybrid mode"
# The log of a former run must not be read below.
: >"$home/log"
"$bin/keypaird" serve --config "$home/keypaird.toml" 2>"$home/log" &
daemon=$!
stop() {
    trap - EXIT INT TERM
    kill -TERM "$daemon" 2>/dev/null || true
    wait "$daemon" || true
}
trap stop EXIT
trap 'stop; exit 0' INT TERM
address=""
for _ in $(seq 200); do
    address=$(sed -n 's/.* serving address=\([^ ]*\).*/\1/p' "$home/log")
    if [ -n "$address" ] && grep -q 'connected to the token' "$home/log"; then break; fi
    if ! kill -0 "$daemon" 2>/dev/null || [ "$_" = 200 ]; then
        echo "the daemon did not come up; its log:" >&2
        cat "$home/log" >&2
        exit 1
    fi
    sleep 0.05
done
grep -h 'serving address' "$home/log" | sed 's/^[^ ]* *//'

export KEYPAIRCTL_ADDRESS="http://$address"
generate() {
    "$bin/keypairctl" generate --common-name "$1" --organization Acme --country US --valid-days 365 \
        --key-algorithm "$2" --crypto-provider "$3"
}
say "A key pair in the HSM: the private key is made in the token and never leaves it"
generate Payments EC HSM
say "A key pair in software: the private key is stored encrypted"
generate Reports RSA LOCAL

say "All key pairs"
"$bin/keypairctl" list

say "How to call it"
cat <<TEXT
export KEYPAIRCTL_ADDRESS=$KEYPAIRCTL_ADDRESS
$bin/keypairctl generate --common-name Mine --organization Acme --country US --valid-days 90 --key-algorithm EC
$bin/keypairctl algorithms
grpcurl -plaintext $address list
grpcurl -plaintext -d '{"settings":{"commonName":"Mine","organization":"Acme","country":"US","validDays":90,"keyAlgorithm":"EC","cryptoProvider":"HSM"}}' \\
    $address keypaird.v1.KeyPairService/GenerateSigningKeyPair
TEXT

if ! $once; then
    say "The daemon runs until Ctrl-C. Its log is $home/log"
    wait "$daemon"
fi
