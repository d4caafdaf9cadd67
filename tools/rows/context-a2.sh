#!/bin/sh
# context-a2: rna-a2 on pascal-context val, 2 conv, 60 classes
# Expected: mean IoU 48.1.
# Time: about 7 hours on two CPU cores (5105 images, 5 seconds each, estimated).
# Hardware: a CPU, or a GPU by --gpus 0.
# Weights: none were released; train-context-a2.sh leaves its own, which --unverified tests.
exec ademx reproduce context-a2 --data "${DATA:-data}" --models "${MODELS:-models}" "$@"
