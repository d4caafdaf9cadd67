#!/bin/sh
# Train ade20k-a1: ade20k_rna-a1_cls150_s8_x1-21, a recipe of ours, not shown to reach it.
# Expected: pixel accuracy 80.55, mean IoU 43.34 (ade20k-a1.sh).
# Time: unknown.
# Hardware: unknown; here four GPUs, or those of GPUS.
exec ademx reproduce --train ade20k-a1 --data "${DATA:-data}" --models "${MODELS:-models}" \
    --gpus "${GPUS-0,1,2,3}" "$@"
