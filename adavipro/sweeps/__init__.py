"""Many runs: table files, notebooks executed on Dask workers, and what is kept of them."""
