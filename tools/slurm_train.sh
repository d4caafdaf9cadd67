#!/bin/sh
# `ademx train` on all nodes of a Slurm job: one worker and one KVStore server on each, and the
# scheduler on the first. For example, from this repository's folder:
#
#   sbatch --nodes 4 --gpus-per-node 4 tools/slurm_train.sh \
#       segmentation --kvstore dist_device_sync --gpus 0,1,2,3 --resume …
#
# All nodes need the folder, its .venv, the data and --output under the same paths. Two minutes
# before its time is up the job is told to save; submitted again with --resume it goes on.
#SBATCH --job-name=ademx
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
set -eu

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(getent ahostsv4 "$first" | awk 'NR == 1 { print $1 }')
export ADEMX_PYTHON="${ADEMX_PYTHON:-$PWD/.venv/bin/python}"
export DMLC_PS_ROOT_URI="$address" DMLC_PS_ROOT_PORT=$((20000 + SLURM_JOB_ID % 10000))
export DMLC_NUM_WORKER="$SLURM_JOB_NUM_NODES" DMLC_NUM_SERVER="$SLURM_JOB_NUM_NODES"

# shellcheck disable=SC2016  # expanded on the nodes
exec srun --ntasks-per-node=1 --kill-on-bad-exit=1 sh -c '
    serve="from ademx.engines.mxnet.server import serve; serve()"
    if [ "$SLURM_PROCID" = 0 ]; then
        DMLC_ROLE=scheduler "$ADEMX_PYTHON" -c "$serve" &
    fi
    DMLC_ROLE=server "$ADEMX_PYTHON" -c "$serve" &
    export DMLC_ROLE=worker
    exec "$ADEMX_PYTHON" -m ademx train "$@"
' sh "$@"
