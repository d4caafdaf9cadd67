#!/bin/sh
# ilsvrc-resnet34b: rn-34b on ilsvrc-cls val, ten crops
# Expected: top-1 error 24.52, top-5 error 7.46.
# Time: about 14 hours on two CPU cores (50000 images, 1 second each, estimated).
# Hardware: a CPU, or a GPU by --gpus 0.
# Weights: train-ilsvrc-resnet34b.sh leaves its own.
exec ademx reproduce ilsvrc-resnet34b --data "${DATA:-data}" --models "${MODELS:-models}" "$@"
