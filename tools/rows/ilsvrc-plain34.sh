#!/bin/sh
# ilsvrc-plain34: rn-plain34 on ilsvrc-cls val, ten crops
# Expected: top-1 error 28.54, top-5 error 10.02.
# Time: about 14 hours on two CPU cores (50000 images, 1 second each, estimated).
# Hardware: a CPU, or a GPU by --gpus 0.
# Weights: train-ilsvrc-plain34.sh leaves its own.
exec ademx reproduce ilsvrc-plain34 --data "${DATA:-data}" --models "${MODELS:-models}" "$@"
