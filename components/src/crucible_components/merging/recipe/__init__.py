"""Merge files: mergekit's YAML as it is, read, checked and resolved per tensor."""
