#!/bin/sh
# Train ilsvrc-resnet50: ilsvrc-cls_rn-50_cls1000, a recipe of ours, not shown to reach it.
# Expected: top-1 error 22.85, top-5 error 6.71 (ilsvrc-resnet50.sh).
# Time: unknown.
# Hardware: eight GPUs; here four GPUs, or those of GPUS.
exec ademx reproduce --train ilsvrc-resnet50 --data "${DATA:-data}" --models "${MODELS:-models}" \
    --gpus "${GPUS-0,1,2,3}" "$@"
