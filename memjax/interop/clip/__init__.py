"""CLIP models and tokenizers, read from folders of their published layouts."""
