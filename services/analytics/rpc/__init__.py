"""Protos to domain and back, nothing else."""
