"""A window's groups through bounded stages: generate ⇒ judge ⇒ prove ⇒ pack, each in threads of its own."""
