#!/bin/bash
# Several machines, one run: sbatch slurm.sh IMAGES MASKS RUN, all three on a disk that the machines
# share. SLURM's warning (SIGTERM two minutes before the end) saves a state; queued again, the job
# continues from it, also with another number of machines.
#SBATCH --nodes=2 --ntasks-per-node=1 --gpus-per-node=4 --cpus-per-task=32
#SBATCH --time=4:00:00 --signal=TERM@120 --requeue --open-mode=append
set -e
flags=(--data.images "$1" --data.masks "$2" --output "$3" --overwrite true)
if compgen -G "$3/checkpoints/state-*.pt" >/dev/null; then
  flags=(--resume "$3")
fi
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes "$SLURM_NNODES" --nproc_per_node gpu --rdzv_backend c10d \
  --rdzv_endpoint "$first:29500" --rdzv_id "$SLURM_JOB_ID" -m -- autosam.train "${flags[@]}"
