"""One question per file; every answer is a line in `results/`, and RESULTS.md is made of those."""
