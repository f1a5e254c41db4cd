"""A medium in, text out."""
