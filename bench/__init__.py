"""mixup-bench: paired benchmarks of Mixup against plain training (ERM)."""
