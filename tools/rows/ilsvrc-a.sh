#!/bin/sh
# ilsvrc-a: rna-a on ilsvrc-cls val, scale 320, one centre crop, no flip
# Expected: top-1 error 19.20, top-5 error 4.73.
# Time: about 14 hours on two CPU cores (50000 images, 1 second each).
# Hardware: a CPU, or a GPU by --gpus 0.
exec ademx reproduce ilsvrc-a --data "${DATA:-data}" --models "${MODELS:-models}" "$@"
