#!/bin/sh
# Train ilsvrc-a: ilsvrc-cls_rna-a_cls1000, as the release states it.
# Expected: top-1 error 19.20, top-5 error 4.73 (ilsvrc-a.sh).
# Time: over 40 days on four Maxwell Titans.
# Hardware: four GPUs of 11 GB; here four GPUs, or those of GPUS.
exec ademx reproduce --train ilsvrc-a --data "${DATA:-data}" --models "${MODELS:-models}" \
    --gpus "${GPUS-0,1,2,3}" "$@"
