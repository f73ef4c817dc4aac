#!/usr/bin/env bash
# Runs every example as a reader would, and the training example for two steps. Usage: .ci/examples.sh FOLDER
set -euo pipefail
out=$1
mkdir -p "$out"

for example in examples/*.py; do
  printf -- '-- %s\n' "$example"
  case "$example" in
    examples/train_demo.py) python "$example" --steps 2 --batch 2 --out "$out/demo" ;;
    examples/run_onnx.py) ;; # below: it takes a model
    *) python "$example" ;;
  esac
done

# An exported model where neither dipc nor torch can be imported: by its function bodies, and with the kernel library.
shipped='import runpy, sys
sys.modules["dipc"] = sys.modules["torch"] = sys.modules["transformers"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")'
dipc compile demo --passes dip-ca --backend onnx -o "$out/exported"
dipc run "$out/exported" --backend onnx --no-kernels --prompt "The city council" >"$out/dipc.txt"
python -c "$shipped" examples/run_onnx.py "$out/exported/onnx" >"$out/bodies.txt"
diff "$out/dipc.txt" "$out/bodies.txt"
if library=$(python -c 'import dipc; print(dipc.onnx_library_path())' 2>"$out/library.txt"); then
  python -c "$shipped" examples/run_onnx.py "$out/exported/onnx" --library "$library" >"$out/kernels.txt"
  diff "$out/bodies.txt" "$out/kernels.txt"
else
  printf 'kernels not tried: %s\n' "$(tail -n 1 "$out/library.txt")"
fi
cat "$out/bodies.txt"
