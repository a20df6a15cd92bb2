"""Carries out a merge plan: reads blocks, computes on all cores, writes in place."""
