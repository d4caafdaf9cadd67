#!/bin/sh
# Train ilsvrc-resnet101: ilsvrc-cls_rn-101_cls1000, a recipe of ours, not shown to reach it.
# Expected: top-1 error 21.75, top-5 error 6.05 (ilsvrc-resnet101.sh).
# Time: unknown.
# Hardware: eight GPUs; here four GPUs, or those of GPUS.
exec ademx reproduce --train ilsvrc-resnet101 --data "${DATA:-data}" --models "${MODELS:-models}" \
    --gpus "${GPUS-0,1,2,3}" "$@"
