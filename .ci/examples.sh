#!/usr/bin/env bash
# Runs every example as a reader would, and the training example for two steps. Usage: .ci/examples.sh FOLDER
set -euo pipefail
out=$1
mkdir -p "$out"

for example in examples/*.py; do
  printf -- '-- %s\n' "$example"
  case "$example" in
    examples/train_demo.py) python "$example" --steps 2 --batch 2 --out "$out/demo" ;;
    *) python "$example" ;;
  esac
done
