"""What is wrong with a deployment, found at once: the checks of every `doctor`, and what a role's start refuses.

Each check is a function from settings, and from what an earlier one learned (`Known`), to findings; none raises for what is
wrong outside. Roles add what only they need (an engine, a sandbox, a model), as functions of the same form.
"""
