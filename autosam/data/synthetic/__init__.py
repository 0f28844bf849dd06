"""Synthetic images: the embedded data set, and the scenes that `lite` is pretrained on."""
