#!/bin/sh
# voc-a1-coco: rna-a1 on voc val, 2 conv, VOC+SBD+COCO, scale 500, flip
# Expected: mean IoU 82.86.
# Time: about 4 hours on two CPU cores (1449 images, 10 seconds each).
# Hardware: a CPU, or a GPU by --gpus 0.
exec ademx reproduce voc-a1-coco --data "${DATA:-data}" --models "${MODELS:-models}" "$@"
