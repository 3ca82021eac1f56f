"""HTML pages in one look: the style sheet and the parts that pages are made of; no script, no external resource."""
