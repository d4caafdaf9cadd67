#!/bin/sh
# ilsvrc-resnet34a: rn-34a on ilsvrc-cls val, ten crops
# Expected: top-1 error 25.03, top-5 error 7.76.
# Time: about 14 hours on two CPU cores (50000 images, 1 second each, estimated).
# Hardware: a CPU, or a GPU by --gpus 0.
# Weights: train-ilsvrc-resnet34a.sh leaves its own.
exec ademx reproduce ilsvrc-resnet34a --data "${DATA:-data}" --models "${MODELS:-models}" "$@"
