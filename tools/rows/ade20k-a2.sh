#!/bin/sh
# ade20k-a2: rna-a2 on ade20k val, 2 conv, one scale
# Expected: mean IoU 43.73.
# Time: about 3 hours on two CPU cores (2000 images, 5 seconds each, estimated).
# Hardware: a CPU, or a GPU by --gpus 0.
# Weights: none were released; train-ade20k-a2.sh leaves its own, which --unverified tests.
exec ademx reproduce ade20k-a2 --data "${DATA:-data}" --models "${MODELS:-models}" "$@"
