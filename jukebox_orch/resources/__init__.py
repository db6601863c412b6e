"""What a run needs from outside: artifact store, experiment tracker, model registry and model store."""
