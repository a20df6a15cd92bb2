"""Container images of the steps: what they are built from, builders, digests, materials."""
