#!/usr/bin/env bash
# Trains a checkpoint from nothing, encoder and decoder side by side, on one GPU:
#   bash fineprint/experiments/train_on_gpu.sh RECIPE OUTPUT_DIR
# It needs Python with PyTorch, transformers, accelerate, timm, NumPy and Pillow, and no network: fonts and texts come from the
# `assets` of the recipe (`python fineprint/generate.py --output_dir build/pack --pack`). OUTPUT_DIR/model is the result.
set -euo pipefail
recipe=$1 output=$2 packages=$(mktemp -d)
trap 'rm -r "$packages"; kill $! 2> /dev/null || true' EXIT
ln -s "$PWD" "$packages/fila"
mkdir -p "$output"
export PYTHONPATH="$packages${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
train() { python fineprint/experiments/train_checkpoint.py "$recipe" --output_dir "$output" --parts "$@"; }
train encoder > "$output/encoder.log" 2>&1 &
train decoder
wait $! || { tail -n 20 "$output/encoder.log"; exit 1; }
train stage1 stage2
