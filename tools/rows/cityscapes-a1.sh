#!/bin/sh
# cityscapes-a1: rna-a1 on cityscapes val, 2 conv, fine, 1024×2048, flip
# Expected: mean IoU 78.08.
# Time: about 12 hours on two CPU cores (500 images, 83 seconds each, estimated).
# Hardware: a CPU, or a GPU by --gpus 0.
exec ademx reproduce cityscapes-a1 --data "${DATA:-data}" --models "${MODELS:-models}" "$@"
