#!/bin/sh
# Train ade20k-a2: ade20k_rna-a2_cls150_s8_x1-21, a recipe of ours, not shown to reach it.
# Expected: mean IoU 43.73 (ade20k-a2.sh).
# Time: unknown.
# Hardware: unknown; here four GPUs, or those of GPUS.
exec ademx reproduce --train ade20k-a2 --data "${DATA:-data}" --models "${MODELS:-models}" \
    --gpus "${GPUS-0,1,2,3}" "$@"
