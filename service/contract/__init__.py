"""What crosses from training to serving: files, keys, tensors, feature order, bytes. Written once, here.

Knows nothing of HTTP, of the store's client, of torch, or of how a model is trained.
"""
