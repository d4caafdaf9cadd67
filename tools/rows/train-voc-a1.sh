#!/bin/sh
# Train voc-a1: voc_rna-a1_cls21_s8_x1-39, a recipe of ours, not shown to reach it.
# Expected: mean IoU 80.84 (voc-a1.sh).
# Time: unknown.
# Hardware: unknown; here four GPUs, or those of GPUS.
exec ademx reproduce --train voc-a1 --data "${DATA:-data}" --models "${MODELS:-models}" \
    --gpus "${GPUS-0,1,2,3}" "$@"
