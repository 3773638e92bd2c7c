"""The course around the notebooks: runs, exercises, report."""
