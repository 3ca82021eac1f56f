"""Cases from reports, run as they stand: a folder of completions, formulas, settings files, stores' answers and scripts."""
