"""From a trained model to what the service reads: the served graph, the item tables, the sealed artefact."""
