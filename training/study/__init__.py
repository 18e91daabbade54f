"""The study: many models fitted on the same rows, measured once, compared with intervals."""
