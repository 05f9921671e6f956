#!/bin/bash
#SBATCH --job-name=kernels
#SBATCH --array=1-20
#SBATCH --cpus-per-task=16
#SBATCH --mem-per-cpu=4G
#SBATCH --time=02:00:00
#SBATCH --output=kernels-%a.log
#
# sbatch slurm.sh, in a directory with dodo.py and kernels.yaml. No GPU is needed. Each task compiles in a place of its
# own; finished kernels meet in ~/.cache/fitasks/store, which all nodes see.
set -euo pipefail

shards=20 # as in --array; not SLURM_ARRAY_TASK_COUNT, so that `sbatch --array=7 slurm.sh` makes up for part 7 alone

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cp -r dodo.py kernels.yaml "$place" # and models/, where kernels.yaml names models
cd "$place"

export PATH="$HOME/venv/bin:$PATH"
export FLASHINFER_WORKSPACE_BASE="$place"
fitasks run --shard "$SLURM_ARRAY_TASK_ID/$shards"
