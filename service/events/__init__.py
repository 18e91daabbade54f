"""Events: what came of answers, sent back. Behaviors join the user's recent list; the rest is counted."""
