"""What a merge file's models are: opened, checked, and what stands beside the result's weights."""
