"""The engine `fast`: T5 on packed rows."""
