"""The fleet: many runs that train side by side over one frozen trunk.

`plan` turns flags into runs, `cohort` holds the runs in training, `step` is one training step of all of them, which
`graphs` captures and `stepper` takes, one after the other; `loop` says who trains, when to score and to save, `results`
writes what came out.
"""
