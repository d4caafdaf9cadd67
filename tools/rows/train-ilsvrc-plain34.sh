#!/bin/sh
# Train ilsvrc-plain34: ilsvrc-cls_rn-plain34_cls1000, a recipe of ours, not shown to reach it.
# Expected: top-1 error 28.54, top-5 error 10.02 (ilsvrc-plain34.sh).
# Time: unknown.
# Hardware: eight GPUs; here four GPUs, or those of GPUS.
exec ademx reproduce --train ilsvrc-plain34 --data "${DATA:-data}" --models "${MODELS:-models}" \
    --gpus "${GPUS-0,1,2,3}" "$@"
