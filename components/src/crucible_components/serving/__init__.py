"""Serving: what loads a registered model and answers with it."""
