"""Pretraining of the SAM `lite` that is shipped."""
