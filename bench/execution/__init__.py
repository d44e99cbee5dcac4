"""Where trials run: a process for each, on the CPU's cores or the GPUs there are."""
