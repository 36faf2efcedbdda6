#!/usr/bin/env bash
# Fuzzes what reads files from elsewhere: each target for so many seconds (300), from files of OpenSSL on. Needs
# cargo-fuzz, which it installs into .tools/ if it is missing; a stable compiler will do.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds="${1:-300}"
root="$PWD/.tools/cargo-fuzz"
[ -x "$root/bin/cargo-fuzz" ] || cargo install --quiet --locked --root "$root" cargo-fuzz
export PATH="$root/bin:$PATH"

seeds="$(mktemp -d)"
trap 'rm -rf "$seeds"' EXIT
mkdir "$seeds/key_file" "$seeds/certificates"
for kind in ec rsa; do
    option="ec_paramgen_curve:P-256"
    [ "$kind" = ec ] || option="rsa_keygen_bits:2048"
    openssl req -x509 -newkey "$kind" -pkeyopt "$option" -nodes -keyout "$seeds/k.pem" -out "$seeds/c.pem" -subj /C=US/O=A/CN=x \
        -addext subjectAltName=DNS:a.example,IP:192.0.2.1 -days 9 2>/dev/null
    cat "$seeds/k.pem" "$seeds/c.pem" >"$seeds/key_file/$kind.pem"
    openssl pkcs12 -export -inkey "$seeds/k.pem" -in "$seeds/c.pem" -passout pass:x -out "$seeds/key_file/$kind.p12"
    openssl x509 -in "$seeds/c.pem" -outform DER -out "$seeds/certificates/$kind.der"
    openssl crl2pkcs7 -nocrl -certfile "$seeds/c.pem" -outform DER -out "$seeds/certificates/$kind.p7b"
done
for target in key_file certificates; do
    # Without a sanitizer, since there is no unsafe code of ours to look after.
    cargo fuzz run --fuzz-dir softhsm-tests/fuzz --sanitizer none "$target" "$seeds/$target" -- \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=1024 -max_len=8192
done
