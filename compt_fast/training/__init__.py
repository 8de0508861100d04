"""The fleet: many runs that train side by side over one frozen trunk.

`plan` turns flags into runs, `data` draws and encodes their rows, `cohort` holds the runs in
training, `trainer` is the loop, `evaluation` scores a finished run, `results` writes what came out.
"""
