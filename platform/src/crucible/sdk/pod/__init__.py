"""A step in a pod: what the local engine does around a step, done by the pod's own process."""
