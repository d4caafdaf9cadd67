#!/bin/sh
# Train ilsvrc-resnet34b: ilsvrc-cls_rn-34b_cls1000, a recipe of ours, not shown to reach it.
# Expected: top-1 error 24.52, top-5 error 7.46 (ilsvrc-resnet34b.sh).
# Time: unknown.
# Hardware: eight GPUs; here four GPUs, or those of GPUS.
exec ademx reproduce --train ilsvrc-resnet34b --data "${DATA:-data}" --models "${MODELS:-models}" \
    --gpus "${GPUS-0,1,2,3}" "$@"
