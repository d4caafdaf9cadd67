#!/bin/sh
# Train ilsvrc-resnet152: ilsvrc-cls_rn-152_cls1000, a recipe of ours, not shown to reach it.
# Expected: top-1 error 21.43, top-5 error 5.71 (ilsvrc-resnet152.sh).
# Time: unknown.
# Hardware: eight GPUs; here four GPUs, or those of GPUS.
exec ademx reproduce --train ilsvrc-resnet152 --data "${DATA:-data}" --models "${MODELS:-models}" \
    --gpus "${GPUS-0,1,2,3}" "$@"
