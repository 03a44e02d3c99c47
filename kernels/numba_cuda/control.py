"""The control words of a run on the device: what lets steps be launched ahead, and stops them where the host must act.

`FOUND` is set by whoever finds that a step cannot go on: from then on every kernel of that step returns at once, and
`second_half`, the last of them, sets `HALT`, on which the first kernel of a step returns. So nothing moves any more
until the host has looked. `STEP` counts whole steps. The other words say what was found.

Several ranks take the largest of each word, twice a step (before ghosts are brought up to date, and before the second
half), so that all of them stop in the same step, whoever found something.
"""

FOUND = 0
HALT = 1
STEP = 2
REBUILD = 3
"""An atom has moved more than half the skin since the neighbour list was built."""
DISPLACEMENT = 4
FORCE = 5
DISTANCE = 6
"""A limit of the guards is broken: by a move in this step, or by the forces and distances of the last."""
FAULT = 7
"""Energy or forces were not finite or out of range at the last evaluation, or a position is not finite."""
OVERFLOW = 8
"""A chunk of the potential had too little room: the forces of this step must be computed again."""
WORDS = 16

REASONS = (REBUILD, DISPLACEMENT, FORCE, DISTANCE, FAULT, OVERFLOW)
