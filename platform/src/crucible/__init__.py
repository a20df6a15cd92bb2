"""Crucible: from one YAML file to a trained, merged, evaluated, promoted and served model."""

__version__ = "0.1.0"
