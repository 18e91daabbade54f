"""The stages of a pipeline, thin: one file each.

In the order prepare, embed, cluster, train, evaluate, export, verify, publish. A stage reads folders and
writes one; `training/pipeline.py` decides which are stale.
"""
