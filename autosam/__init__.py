"""SAM without prompts: a small network emits the prompt embeddings, SAM stays frozen.

Each verb is a module with a function of the same name: `from autosam.train import train`.
"""

from autosam.config import Config
from autosam.errors import AutosamError

__version__ = "0.1.0"
__all__ = ["AutosamError", "Config", "__version__"]
