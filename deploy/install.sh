#!/bin/sh
# Installs synofed from this bundle, as an ordinary user and without a network:
#
#     sh install.sh [FOLDER]          FOLDER: where to; ~/synofed if not given
#
# Nothing is installed unless every file is what SHA256SUMS says. PYTHON=python3.11 chooses the Python.
set -eu
umask 022

here=$(cd "$(dirname "$0")" && pwd)
target=${1:-$HOME/synofed}
python=${PYTHON:-python3}

fail() {
    echo "install.sh: $1" >&2
    exit "$2"
}

value() {
    sed -n "s/^$1=//p" "$here/BUNDLE"
}

cd "$here"
sha256sum --check --strict --quiet SHA256SUMS \
    || fail "expected the files that SHA256SUMS names, got others: copy the bundle again" 8
for file in $(find . -type f ! -path ./SHA256SUMS); do
    grep -q "  $file\$" SHA256SUMS || fail "expected no file but those of SHA256SUMS, got $file: copy the bundle again" 8
done

has=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') \
    || fail "expected Python $(value python), got none: set PYTHON" 3
[ "$has" = "$(value python)" ] || fail "expected Python $(value python), got $has: set PYTHON" 3
[ "$(uname -m)" = "$(value machine)" ] || fail "expected a $(value machine) machine, got $(uname -m)" 3
[ ! -e "$target" ] || [ -f "$target/pyvenv.cfg" ] \
    || fail "expected no $target, or an earlier installation there: name another folder" 3

"$python" -m venv "$target" || fail "expected Python's venv: an administrator installs it (python3-venv on Debian)" 3
"$target/bin/python" -m pip --isolated --disable-pip-version-check install --quiet --no-cache-dir --no-index \
    --no-deps --require-hashes --find-links wheels --requirement requirements.txt
if [ "$(value complete)" = yes ]; then
    "$target/bin/python" -m pip --isolated check >/dev/null || fail "the packages do not fit together" 1
fi
fab=$("$target/bin/python" -P -c 'from common import fab; print(fab.fab_hash())')
[ "$fab" = "$(value fab_sha256)" ] || fail "expected the package $(value fab_sha256), got $fab" 8

echo "synofed $(value version) is in $target: $target/bin/synofed --help"
echo "Its package (FAB) has the hash $fab."
echo "Compare with whoever gave you the bundle: $(sha256sum SHA256SUMS | cut -d ' ' -f 1)"
