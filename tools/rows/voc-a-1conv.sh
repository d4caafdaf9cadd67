#!/bin/sh
# voc-a-1conv: rna-a on voc val, 1 conv, VOC+SBD, scale 500, flip
# Expected: mean IoU 78.76.
# Time: about 4 hours on two CPU cores (1449 images, 11 seconds each, estimated).
# Hardware: a CPU, or a GPU by --gpus 0.
# Weights: none were released; train-voc-a-1conv.sh leaves its own.
exec ademx reproduce voc-a-1conv --data "${DATA:-data}" --models "${MODELS:-models}" "$@"
