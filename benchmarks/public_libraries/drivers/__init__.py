"""One driver a library, run by the library's own interpreter from the repository's root:

    .rivals/<library>/bin/python -m benchmarks.public_libraries.drivers.<library> JOB.json

A driver imports its library, torch, NumPy, and of ours only what needs nothing else.
"""
