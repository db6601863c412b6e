"""Talks to the KFP API."""
