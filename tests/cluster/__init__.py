"""Tests on a Kubernetes; a package, so that theirs ends with the last of them."""
