#!/usr/bin/env bash
# Compiles the module, for SoftHSM2 or another one: build.sh OUTPUT [MODULE]
set -euo pipefail
# It goes on counting when the daemon loads it anew.
exec cc -shared -fPIC -O1 -Wall -Wextra -Werror "-DMODULE=\"${2:-/usr/lib/softhsm/libsofthsm2.so}\"" -o "$1" \
    "$(dirname "$0")/fault_module.c" -ldl -lpthread -Wl,-z,nodelete
