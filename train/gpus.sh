#!/bin/sh
# SAM ViT-B on all GPUs of a machine: sh gpus.sh SAM_FILE IMAGES MASKS
set -e
accelerate launch -m autosam.train --sam vit_b --sam_checkpoint "$1" \
  --data.images "$2" --data.masks "$3"
