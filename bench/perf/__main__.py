"""`python -m bench.perf`, which `make perf` runs."""

from bench.perf.trials import main

main()
