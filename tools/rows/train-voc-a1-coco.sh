#!/bin/sh
# Train voc-a1-coco: voc_rna-a1_cls21_s8_coco_x1-8, a recipe of ours, not shown to reach it.
# Expected: mean IoU 82.86 (voc-a1-coco.sh).
# Time: unknown.
# Hardware: unknown; here four GPUs, or those of GPUS.
exec ademx reproduce --train voc-a1-coco --data "${DATA:-data}" --models "${MODELS:-models}" \
    --gpus "${GPUS-0,1,2,3}" "$@"
