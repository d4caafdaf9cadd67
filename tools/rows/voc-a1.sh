#!/bin/sh
# voc-a1: rna-a1 on voc val, 2 conv, VOC+SBD, scale 500, flip
# Expected: mean IoU 80.84.
# Time: about 4 hours on two CPU cores (1449 images, 10 seconds each).
# Hardware: a CPU, or a GPU by --gpus 0.
exec ademx reproduce voc-a1 --data "${DATA:-data}" --models "${MODELS:-models}" "$@"
