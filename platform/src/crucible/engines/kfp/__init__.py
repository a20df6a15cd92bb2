"""Running a plan on Kubeflow Pipelines: compile, submit, follow, explain."""
