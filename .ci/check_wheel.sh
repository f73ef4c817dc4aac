#!/usr/bin/env bash
# Builds the wheel with and without a C++ compiler, looks at what is in it, and uses it from an empty folder.
# Usage: .ci/check_wheel.sh FOLDER, inside the environment that holds dipc's dependencies.
set -euo pipefail
out=$1
mkdir -p "$out/empty"

fail() {
  printf 'wheel: %s\n' "$1" >&2
  exit 1
}

pip wheel --quiet --no-deps --wheel-dir "$out/native" .
CC=/bin/false CXX=/bin/false pip wheel --quiet --no-deps --wheel-dir "$out/pure" .

for kind in native pure; do
  python -m zipfile -l "$out/$kind"/*.whl | awk 'NR > 1 {print $1}' >"$out/$kind.txt"
  for file in dipc/py.typed dipc/hwmodels/a18.yaml dipc/demo/model.safetensors dipc/demo/tokenizer.json; do
    grep -qx "$file" "$out/$kind.txt" || fail "$kind: $file is missing"
  done
  if grep -vE '^dipc(-[0-9][^/]*\.dist-info)?/' "$out/$kind.txt"; then
    fail "$kind: the files above do not belong into it"
  fi
done
grep -q '^dipc/native/libdipc_native\.' "$out/native.txt" || fail "native: the library is missing"
if grep '^dipc/native/libdipc_native\.' "$out/pure.txt"; then
  fail "pure: a library got in though there was no compiler"
fi

# A second environment sees the first one's dependencies, but of dipc only the wheel.
dependencies=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
for kind in native pure; do
  python -m venv --without-pip "$out/venv-$kind"
  python -m pip --python "$out/venv-$kind/bin/python" install --quiet --no-deps "$out/$kind"/*.whl
  packages=$("$out/venv-$kind/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  printf '%s\n' "$dependencies" >"$packages/dependencies.pth"
  (
    cd "$out/empty"
    "$out/venv-$kind/bin/python" -c 'import dipc.native; print("native library:", dipc.native.describe())'
    "$out/venv-$kind/bin/dipc" env
    "$out/venv-$kind/bin/dipc" passes list
    "$out/venv-$kind/bin/dipc" hw list
  )
done
