#!/bin/sh
# ilsvrc-resnet152: rn-152 on ilsvrc-cls val, ten crops
# Expected: top-1 error 21.43, top-5 error 5.71.
# Time: about 28 hours on two CPU cores (50000 images, 2 seconds each, estimated).
# Hardware: a CPU, or a GPU by --gpus 0.
# Weights: train-ilsvrc-resnet152.sh leaves its own, and ademx convert reads the Caffe file of the authors.
exec ademx reproduce ilsvrc-resnet152 --data "${DATA:-data}" --models "${MODELS:-models}" "$@"
