#!/usr/bin/env bash
# Writes requirements.lock and requirements-cuda12.lock from setup.py: exact versions with hashes, for Python 3.11 on
# Linux x86_64. What is locked stays as it is while setup.py allows it; `launch/lock.sh --upgrade` takes the newest.
# With `uv` (pip install uv).
set -euo pipefail
cd "$(dirname "$0")/.."

lock() {
    local file=$1
    shift
    UV_CUSTOM_COMPILE_COMMAND="launch/lock.sh" uv pip compile --quiet --generate-hashes --no-config \
        --python-version 3.11 --python-platform x86_64-manylinux_2_28 --output-file "$file" setup.py "$@"
}

lock requirements.lock --extra test "$@"
lock requirements-cuda12.lock --extra cuda12 --extra datasets --constraint requirements.lock
