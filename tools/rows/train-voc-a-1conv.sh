#!/bin/sh
# Train voc-a-1conv: voc_rna-a_cls21_s8_1conv_x1-39, a recipe of ours, not shown to reach it.
# Expected: mean IoU 78.76 (voc-a-1conv.sh).
# Time: unknown.
# Hardware: unknown; here four GPUs, or those of GPUS.
exec ademx reproduce --train voc-a-1conv --data "${DATA:-data}" --models "${MODELS:-models}" \
    --gpus "${GPUS-0,1,2,3}" "$@"
