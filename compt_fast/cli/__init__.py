"""What the commands share: the dispatcher, the parser, the console."""
