#!/usr/bin/env bash
# A run on Slurm that continues by itself after a time limit or a preemption. From the checkout:
#
#   sbatch --nodes 2 --ntasks-per-node 8 --gpus-per-node 8 tools/launch/slurm.sh \
#       --method swav --mix region --data /shared/train.beton --output /shared/runs --name swav
#
# Each Slurm task is a process of the run. srun starts them all, so that each receives signals and
# srun returns their status: 75 means that the run was saved and must be continued. --name is needed.
#SBATCH --job-name=unmix
#SBATCH --cpus-per-task=8
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
cd "$SLURM_SUBMIT_DIR"

STOPPED=75 # train.py's status after a signal
export MASTER_ADDR MASTER_PORT
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))

# shellcheck disable=SC2016  # the variables are each task's own
task='export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
export LOCAL_WORLD_SIZE=${SLURM_STEP_TASKS_PER_NODE%%[(,]*}
exec "$@"'

# When a task has ended, the others report it and end too, or --wait ends them. --kill-on-bad-exit
# would end them before they have written the last checkpoint.
status=0
srun --kill-on-bad-exit=0 --wait=120 bash -c "$task" task \
    "${PYTHON:-.venv/bin/python}" train.py --resume auto "$@" || status=$?
if [ "$status" -eq "$STOPPED" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
