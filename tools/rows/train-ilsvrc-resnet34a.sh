#!/bin/sh
# Train ilsvrc-resnet34a: ilsvrc-cls_rn-34a_cls1000, a recipe of ours, not shown to reach it.
# Expected: top-1 error 25.03, top-5 error 7.76 (ilsvrc-resnet34a.sh).
# Time: unknown.
# Hardware: eight GPUs; here four GPUs, or those of GPUS.
exec ademx reproduce --train ilsvrc-resnet34a --data "${DATA:-data}" --models "${MODELS:-models}" \
    --gpus "${GPUS-0,1,2,3}" "$@"
