#!/bin/sh
# Train cityscapes-a1: cityscapes_rna-a1_cls19_s8_x1-140, as the release states it.
# Expected: mean IoU 78.08 (cityscapes-a1.sh).
# Time: unknown.
# Hardware: four GPUs; here four GPUs, or those of GPUS.
exec ademx reproduce --train cityscapes-a1 --data "${DATA:-data}" --models "${MODELS:-models}" \
    --gpus "${GPUS-0,1,2,3}" "$@"
