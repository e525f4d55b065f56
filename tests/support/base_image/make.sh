#!/usr/bin/env bash
# Makes a base image where none can be pulled: like e2bdev/code-interpreter it has Debian, a Python
# below /usr/local beside Debian's own, and a code service with the same paths and protocol.
# usage: make.sh IMAGE
set -euo pipefail
image=$1
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=ca-certificates,curl,python3,python3-pip-whl,sudo
# The certificates and indexes of this machine: it may stand behind a proxy that only they can name.
certificates=()
if [ -s /etc/ssl/certs/ca-certificates.crt ]; then
    certificates=(--customize-hook='copy-in /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs')
fi

# A copy of Debian's Python with the folders that its authors gave it: /usr/local is its prefix, and
# packages go into site-packages. Nothing marks it as externally managed.
cat >"$work/python" <<'END'
set -e
cp -a /usr/lib/python3.13 /usr/local/lib/
cp /usr/bin/python3.13 /usr/local/bin/
ln -s python3.13 /usr/local/bin/python3
ln -s python3.13 /usr/local/bin/python
cd /usr/local/lib/python3.13
rm EXTERNALLY-MANAGED
find . -name __pycache__ -exec rm -r {} +
sed -i "s/prefix_scheme = 'posix_local'/prefix_scheme = 'posix_prefix'/" sysconfig/__init__.py
/usr/local/bin/python3 -m compileall -q .
mkdir site-packages
# The module `site` is compiled into the interpreter, and knows Debian's folder alone, which Debian's
# own Python reads, too.
echo "import site, sys; sys.prefix == '/usr/local' and site.addsitedir('$PWD/site-packages')" \
    >dist-packages/site-packages.pth
wheel=$(echo /usr/share/python-wheels/pip-*.whl)
python3 "$wheel/pip" install --no-cache-dir --root-user-action ignore \
    pip ipykernel==6.31.0 ipython==9.15.0
END

mmdebstrap "${certificates[@]}" --variant=minbase --include="$packages" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook="chroot \"\$1\" sh <'$work/python'" \
    --customize-hook='chroot "$1" useradd --create-home --shell /bin/bash user' \
    --customize-hook='printf "user ALL=(ALL:ALL) NOPASSWD: ALL\n" > "$1/etc/sudoers.d/user"' \
    --customize-hook='mkdir -p "$1/root/.jupyter" "$1/root/.server"' \
    --customize-hook="copy-in $here/start-up.sh /root/.jupyter" \
    --customize-hook="copy-in $here/server.py $here/contexts.py /root/.server" \
    --customize-hook='chmod 0755 "$1/root/.jupyter/start-up.sh"' \
    --customize-hook='chmod 0700 "$1/root"' \
    trixie "$work/base.tar" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }

docker import \
    --change 'USER user' --change 'WORKDIR /home/user' \
    --change 'ENTRYPOINT sudo --preserve-env=E2B_LOCAL /root/.jupyter/start-up.sh' \
    "$work/base.tar" "$image" >/dev/null
