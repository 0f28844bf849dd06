#!/bin/sh
# SAM ViT-B (downloaded on first use) on all GPUs of a machine: sh gpus.sh IMAGES MASKS
set -e
accelerate launch -m autosam.train --sam vit_b --data.images "$1" --data.masks "$2"
