#!/bin/sh
# Train context-a2: pascal-context_rna-a2_cls60_s8_x1-83, a recipe of ours, not shown to reach it.
# Expected: mean IoU 48.1 (context-a2.sh).
# Time: unknown.
# Hardware: unknown; here four GPUs, or those of GPUS.
exec ademx reproduce --train context-a2 --data "${DATA:-data}" --models "${MODELS:-models}" \
    --gpus "${GPUS-0,1,2,3}" "$@"
