"""`twinstar-score`: a Parquet file of candidates through the same stages as a request over HTTP, see __main__.py."""
