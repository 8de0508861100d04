"""T5 on packed rows, with a forward and a backward of its own: what the engine `fast` computes with."""
