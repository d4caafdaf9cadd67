#!/bin/sh
# ilsvrc-resnet50: rn-50 on ilsvrc-cls val, ten crops
# Expected: top-1 error 22.85, top-5 error 6.71.
# Time: about 14 hours on two CPU cores (50000 images, 1 second each, estimated).
# Hardware: a CPU, or a GPU by --gpus 0.
# Weights: train-ilsvrc-resnet50.sh leaves its own, and ademx convert reads the Caffe file of the authors.
exec ademx reproduce ilsvrc-resnet50 --data "${DATA:-data}" --models "${MODELS:-models}" "$@"
