"""The built-in model projects. They do not depend on each other."""
