"""Where values and models are stored: the artifact store and the model store."""
