#!/bin/sh
# Train places-a2: places_rna-a2_cls365, a recipe of ours.
# Expected: nothing published; ade20k-a2 and context-a2 start from it.
# Time: unknown.
# Hardware: unknown; here four GPUs, or those of GPUS.
exec ademx reproduce --train places-a2 --data "${DATA:-data}" --models "${MODELS:-models}" \
    --gpus "${GPUS-0,1,2,3}" "$@"
