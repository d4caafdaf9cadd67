#!/bin/sh
# Train ilsvrc-resnet34c: ilsvrc-cls_rn-34c_cls1000, a recipe of ours, not shown to reach it.
# Expected: top-1 error 24.19, top-5 error 7.40 (ilsvrc-resnet34c.sh).
# Time: unknown.
# Hardware: eight GPUs; here four GPUs, or those of GPUS.
exec ademx reproduce --train ilsvrc-resnet34c --data "${DATA:-data}" --models "${MODELS:-models}" \
    --gpus "${GPUS-0,1,2,3}" "$@"
