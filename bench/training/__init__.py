"""One trial's training: seeds, optimiser, loop and checkpoint."""
