#!/usr/bin/env bash
# Makes a base image from Debian's packages where no image can be pulled: Python, and a small code
# service at the paths and with the protocol of e2bdev/code-interpreter.
# usage: make.sh IMAGE
set -euo pipefail
image=$1
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=ca-certificates,curl,python3,python3-ipykernel,python3-jupyter-client,python3-pip,sudo
# The certificates of this machine: it may stand behind a proxy that only they can name.
certificates=()
if [ -s /etc/ssl/certs/ca-certificates.crt ]; then
    certificates=(--customize-hook='copy-in /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs')
fi
mmdebstrap "${certificates[@]}" --variant=minbase --include="$packages" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='chroot "$1" useradd --create-home --shell /bin/bash user' \
    --customize-hook='printf "user ALL=(ALL:ALL) NOPASSWD: ALL\n" > "$1/etc/sudoers.d/user"' \
    --customize-hook='mkdir -p "$1/root/.jupyter" "$1/root/.server"' \
    --customize-hook="copy-in $here/start-up.sh /root/.jupyter" \
    --customize-hook="copy-in $here/server.py $here/contexts.py /root/.server" \
    --customize-hook='chmod 0755 "$1/root/.jupyter/start-up.sh"' \
    bookworm "$work/base.tar" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }

docker import \
    --change 'USER user' --change 'WORKDIR /home/user' \
    --change 'ENTRYPOINT sudo --preserve-env=E2B_LOCAL /root/.jupyter/start-up.sh' \
    "$work/base.tar" "$image" >/dev/null
