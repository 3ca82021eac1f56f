"""Every command line of core. The roles' own command lines are the only others that import it."""
