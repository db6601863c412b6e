"""What a model project implements and may import."""
