"""What training costs, measured side by side: `make perf`, `make perf-methods`."""
