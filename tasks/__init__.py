"""Prefect tasks: what is cached under which key, retried and shown. The work is the library's."""
