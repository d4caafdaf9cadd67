#!/bin/sh
# Train ilsvrc-a1: ilsvrc-cls_rna-a1_cls1000, as the release states it.
# Expected: top-1 error 19.54, top-5 error 4.75 (ilsvrc-a1.sh).
# Time: unknown.
# Hardware: unknown; here four GPUs, or those of GPUS.
exec ademx reproduce --train ilsvrc-a1 --data "${DATA:-data}" --models "${MODELS:-models}" \
    --gpus "${GPUS-0,1,2,3}" "$@"
