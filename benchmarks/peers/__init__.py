"""Public model servers that run the plain handler on the same requests: a file each, named as in the results.

Each file is run by the Python of an environment of its own, `python -m benchmarks.peers.<name> --port PORT` with the
PLAIN_ variables, and answers `POST /score` as well as its server lets it: one worker process that holds the model.
"""
