"""Deployments, a local Prefect server and its workers."""
