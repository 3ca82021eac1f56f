"""The test kit: a small network, tiny models, published vectors, wheels in clean environments, SVG drawing."""
