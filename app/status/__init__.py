"""Health and pool status for any Django project: one middleware, no URL, no model, no template setting.

A deployment copies this package as ``djorm_status`` into other people's projects, so nothing in here
names the package by an absolute import.
"""
