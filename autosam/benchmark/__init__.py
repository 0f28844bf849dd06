"""Measure time, memory and parameters."""
