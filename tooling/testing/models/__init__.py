"""Small language models that are really trained, kept by recipe: for studies, adversaries and tests."""
