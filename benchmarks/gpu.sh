#!/usr/bin/env bash
# What a GPU is asked, in twelve minutes on a bare machine: does everything run there, is it right, how fast is it.
#
#   benchmarks/gpu.sh --prepare [FOLDER]   where the data are: copies FOLDER's (../shared's) `hub` and `t5-tokenizer` to
#                                          .gpu/shared, which git ignores and which has to travel with the checkout;
#                                          without it rows and tokenizer are made up
#   benchmarks/gpu.sh [STEP ...]           where the GPU is, which needs no network: torch for CUDA, Triton, transformers
#                                          and pytest have to be there, compt_fast is installed by the script
#
# What is found goes to $OUT, by default .gpu/out; benchmarks/gpu.py says how. PYTHON chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ "${1:-}" = --prepare ]; then
    from=${2:-${COMPT_FAST_SHARED:-../shared}}
    for name in hub t5-tokenizer; do
        [ -d "$from/$name" ] || { echo "error: there is no $from/$name: name the folder that holds both" >&2; exit 2; }
    done
    rm -rf .gpu/shared
    mkdir -p .gpu/shared
    cp -RL "$from/hub" "$from/t5-tokenizer" .gpu/shared/
    du -sh .gpu/shared
else
    exec "${PYTHON:-python3}" -m benchmarks.gpu "$@"
fi
