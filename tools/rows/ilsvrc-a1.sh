#!/bin/sh
# ilsvrc-a1: rna-a1 on ilsvrc-cls val, scale 320, one centre crop, no flip
# Expected: top-1 error 19.54, top-5 error 4.75.
# Time: about 14 hours on two CPU cores (50000 images, 1 second each).
# Hardware: a CPU, or a GPU by --gpus 0.
exec ademx reproduce ilsvrc-a1 --data "${DATA:-data}" --models "${MODELS:-models}" "$@"
