"""Weights files of the SAMs: locate, download, identify and manage them."""
