#!/bin/bash
# A job of compt_fast over the GPUs of several nodes of Slurm, one trainer a GPU:
#
#     RUN=/shared/runs/glue sbatch recipes/ray/slurm.sh --suite glue --model t5-base --method pt,spp,scp --seeds 0,1,2
#
# Everything behind the file's name is for `compt_fast.train`. RUN is the run folder: only the first node writes there,
# and it has to be where a later submission finds it. Two minutes before its time is over the job leaves a checkpoint
# and queues itself again; it goes on there, on whatever nodes it gets then.
#SBATCH --job-name=compt-fast
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
: "${RUN:?name the run folder: RUN=/shared/runs/NAME sbatch recipes/ray/slurm.sh ...}"

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}'):6379
# Whoever reaches Ray's ports can run code on the nodes: a secret of this job alone, which srun hands to all of them.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')

each=(--num-gpus "${SLURM_GPUS_ON_NODE:-0}" --num-cpus "$SLURM_CPUS_PER_TASK" --block)
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" ray start --head --port=6379 "${each[@]}" &
sleep 15
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --overlap --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" \
        ray start --address="$address" "${each[@]}" &
    sleep 15
fi

# On this node, which is the head: the batch script runs there.
python -m compt_fast.train --ray "$address" --out "$RUN" "$@" &
trainer=$!
trap 'kill -TERM $trainer' TERM
code=0
wait $trainer || code=$?
if [ $code -gt 128 ]; then  # the trap has run, and the checkpoint is being written
    code=0
    wait $trainer || code=$?
fi
if [ $code -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
