"""Encoders in other projects' benchmarks: mteb, HEAR and X-ARES. Each module is imported by its own name."""
