"""Leyden: fine-tune language models from the command line, with Lightning and Hydra."""

__version__ = "0.1.0"
