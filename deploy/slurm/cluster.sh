#!/bin/bash
# One simulation over all nodes of an allocation, by Ray:
#   sbatch --nodes=4 deploy/slurm/cluster.sh configs/rating.toml
# A job that is put back into the queue goes on where it was. The runs and the sites' folders lie on a
# disk that all nodes share and whose locks hold from node to node.
#SBATCH --job-name=synofed
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=slurm-%j.log
set -euo pipefail

config=${1:?Expected a configuration as TOML file as the first argument}
shift
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
out=runs/slurm-$SLURM_JOB_ID
resume=()
[[ ! -d $out ]] || resume=(--resume)
export RAY_USAGE_STATS_ENABLED=0
srun ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_PER_TASK" --include-dashboard=false -- \
    synofed simulate "$config" --out "$out" "${resume[@]}" --engine ray --set compute.ray.address=auto "$@"
