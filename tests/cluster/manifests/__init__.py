"""Tests of what manifests/ installs; a package, as their cluster is theirs."""
