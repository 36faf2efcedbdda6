#!/usr/bin/env bash
# Generates a key pair, signs with it, verifies the signature, and deletes the key pair.
# Needs grpcurl and openssl. grpcurl learns the API from the daemon, by reflection.
#
#     ./sign.sh 127.0.0.1:9443
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT

# With TLS: -cacert ca.pem -cert client.pem -key client.key instead of -plaintext.
call() { grpcurl -plaintext -d "$3" "$address" "keypaird.v1.$1/$2"; }
# Takes a text member out of an answer; line ends within it are written as \n.
member() { sed -n "s/^ *\"$1\": \"\(.*\)\",\{0,1\}$/\1/p"; }
address=$1

call KeyPairService GenerateSigningKeyPair '{"settings": {
    "commonName": "Example", "organization": "Acme", "country": "US", "validDays": 30,
    "keyAlgorithm": "EC", "labels": {"made-by": "sign.sh"}}}' >"$folder/made.json"
id=$(member id <"$folder/made.json")
printf '%b' "$(member publicKeyPem <"$folder/made.json")" >"$folder/public.pem"

printf 'to be signed' >"$folder/message"
message=$(base64 -w0 "$folder/message")
call SigningService Sign "{\"id\": \"$id\", \"message\": \"$message\"}" >"$folder/signed.json"
member signature <"$folder/signed.json" | base64 -d >"$folder/signature"
openssl dgst -sha256 -verify "$folder/public.pem" -signature "$folder/signature" "$folder/message"

call KeyPairService DeleteSigningKeyPair "{\"id\": \"$id\"}" | member privateKey
if call KeyPairService GetSigningKeyPair "{\"id\": \"$id\"}" 2>"$folder/error"; then
    exit 1
fi
grep Message "$folder/error"
