#!/bin/sh
# The main job on the sample data: look, encode, look again, decode, export, and what came of it.
#
#   sample_data/demo.sh [FOLDER]      writes to FOLDER, demo_output unless named; files of an earlier run are replaced
#
# LFQ names the lfq command and PYTHON the interpreter (with numpy and safetensors) where they are not on PATH.
set -eu

out=${1:-demo_output}
data=$(dirname "$0")

lfq=${LFQ:-lfq}

run() {
    printf '\n$ lfq %s\n' "$*"
    "$lfq" "$@"
}

run inspect "$data/digits.safetensors" "$data/digits_lfq.safetensors" \
    "$data/latents.safetensors" "$data/latents_lfq.safetensors"

for name in digits latents; do
    run encode "$data/${name}_lfq.safetensors" "$data/$name.safetensors" -o "$out/codes" --overwrite
done
run inspect "$out/codes/digits.codes.safetensors" "$out/codes/latents.codes.safetensors"
run stats "$out/codes"
"$lfq" stats "$out/codes" --json --quiet >"$out/stats.json"

for name in digits latents; do
    run decode "$data/${name}_lfq.safetensors" "$out/codes/$name.codes.safetensors" -o "$out/decoded" --overwrite
    run export-codebook "$data/${name}_lfq.safetensors" -o "$out/codebooks/$name.safetensors" --overwrite
done

printf '\n'
"${PYTHON:-python3}" "$data/report.py" "$out"
