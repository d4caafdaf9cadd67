#!/bin/sh
# ade20k-a1: rna-a1 on ade20k val, 2 conv, scale 500, flip, 2 test steps
# Expected: pixel accuracy 80.55, mean IoU 43.34.
# Time: about 22 hours on two CPU cores (2000 images, 40 seconds each, estimated).
# Hardware: a CPU, or a GPU by --gpus 0.
exec ademx reproduce ade20k-a1 --data "${DATA:-data}" --models "${MODELS:-models}" "$@"
