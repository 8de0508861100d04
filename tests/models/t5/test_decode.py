"""What decoding shares between candidates."""

from __future__ import annotations

from compt_fast.models.t5.decode import Trie


def test_a_trie_holds_every_beginning_once() -> None:
    trie = Trie.of([[7, 8, 1], [7, 9, 1], [7, 1], [1], [7, 8, 1]], start_id=0)
    assert trie.tokens == [0, 7, 8, 9]
    assert trie.paths == [[0], [0, 1], [0, 1, 2], [0, 1, 3]]
    assert trie.steps == [
        [(0, 7), (1, 8), (2, 1)],
        [(0, 7), (1, 9), (3, 1)],
        [(0, 7), (1, 1)],
        [(0, 1)],
        [(0, 7), (1, 8), (2, 1)],
    ]
