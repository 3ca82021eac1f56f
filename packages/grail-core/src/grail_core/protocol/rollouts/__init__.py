"""What only rollouts have: records, noise, the sample that is checked, groups. Other kinds of work get rooms beside it."""
