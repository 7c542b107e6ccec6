#!/bin/bash
# One run of a study for each job of an array:
#   synofed study configs/rating_table.toml expand          lists the runs, numbered from 0
#   sbatch --array=0-87 deploy/slurm/study.sh configs/rating_table.toml
#   synofed study configs/rating_table.toml table           collects what is done and names what is missing
# A job that was stopped goes on where it was when it is submitted again. Jobs share the folder of networks: one that
# a finished job has trained is taken from there. Start the reference row first if that is to pay off.
#SBATCH --job-name=synofed
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=slurm-%A_%a.log
set -euo pipefail

study=${1:?Expected a study as TOML file as the first argument}
synofed study "$study" run --index "${SLURM_ARRAY_TASK_ID:?Expected to run in an array job: sbatch --array=0-N}"
