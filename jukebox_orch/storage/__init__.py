"""Storage of artifacts and models: the artifact store and the model store."""
