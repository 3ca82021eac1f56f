"""The docs site: what turns the pages of this repository into one, and the parts of the reference that code makes."""
