"""The HTTP client of the data path. Start at `pool.Pool.send`; the command line and probes use httpx instead."""
