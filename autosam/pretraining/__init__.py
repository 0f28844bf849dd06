"""The image encoder that is shipped."""
