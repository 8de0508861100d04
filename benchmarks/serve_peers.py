"""Other software behind the same server: `python -m benchmarks.serve_peers KIND --prompts ARTIFACT --port 0`.

A peer differs from `compt_fast.serve` in what answers a batch alone, so that what HTTP costs is the same for all:

- `peft`: transformers' model with an adapter of PEFT's prompt tuning for each task; a row at a time, as one adapter
  is switched on at a time;
- `ctranslate2`: CTranslate2 on the export `vocabulary`, whose tokenizer has a token for each of a prompt's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from compt_fast.exports import EXPORTS
from compt_fast.prediction.predictor import Answer, Predictor, load
from compt_fast.prediction.rows import EncodedRow
from compt_fast.serving.app import make_app
from compt_fast.serving.gate import Access
from compt_fast.serving.limits import Limits
from compt_fast.serving.served import Served
from compt_fast.serving.server import bound, serve, url_of


class Peer(Predictor):
    """Answers as offline, but by another program."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__(predictor.trunk, predictor.prompts)
        self.longest = max(len(ids) for known in self.ready.values() for ids in known.labels.ids)

    def answer(self, rows: Any, *, scores: bool = False) -> list[Answer]:
        """The answers to a batch."""
        if scores:
            raise NotImplementedError("peers are asked for answers alone")
        texts = self.trunk.tokenizer.batch_decode(self.generated(rows), skip_special_tokens=True)
        return [self.ready[row.prompt.task.name].answer(text.strip()) for row, text in zip(rows, texts, strict=True)]

    def generated(self, rows: Sequence[EncodedRow]) -> list[list[int]]:
        """The token ids that are written for each row."""
        raise NotImplementedError


class Peft(Peer):
    """transformers and PEFT."""

    def __init__(self, predictor: Predictor) -> None:
        from peft import PromptTuningConfig, get_peft_model

        super().__init__(predictor)
        self.model: Any = None
        for name, one in self.prompts.items():
            values = one.prompts.tensors["targets"][one.index]
            config = PromptTuningConfig(
                task_type="SEQ_2_SEQ_LM", num_virtual_tokens=len(values), num_transformer_submodules=1
            )
            if self.model is None:
                self.model = get_peft_model(predictor.trunk.model, config, adapter_name=name)  # type: ignore[attr-defined]
            else:
                self.model.add_adapter(name, config)
            with torch.no_grad():
                self.model.prompt_encoder[name].embedding.weight.copy_(values)
        self.model.eval()

    @torch.inference_mode()
    def generated(self, rows: Sequence[EncodedRow]) -> list[list[int]]:
        """Row by row."""
        found = []
        for row in rows:
            self.model.set_adapter(row.prompt.task.name)
            ids = torch.tensor([row.input_ids])
            out = self.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=self.longest, do_sample=False
            )
            found.append(out[0].tolist())
        return found


class CTranslate2(Peer):
    """CTranslate2, of so many workers and threads, in an arithmetic such as "int8"."""

    def __init__(self, predictor: Predictor, compute: str, workers: int, threads: int, tokens: int) -> None:
        import ctranslate2
        from transformers import AutoTokenizer

        super().__init__(predictor)
        self.tokens = tokens
        with tempfile.TemporaryDirectory() as scratch:
            checkpoint, converted = Path(scratch, "checkpoint"), Path(scratch, "converted")
            checkpoint.mkdir()
            EXPORTS["vocabulary"].write(predictor, checkpoint)
            ctranslate2.converters.TransformersConverter(str(checkpoint)).convert(str(converted))
            self.words = AutoTokenizer.from_pretrained(checkpoint)
            self.translator = ctranslate2.Translator(
                str(converted), compute_type=compute, inter_threads=workers, intra_threads=threads
            )
        self.heads = {name: self._head(name, one.prompts.shape.target_length) for name, one in self.prompts.items()}

    def _head(self, task: str, length: int) -> list[str]:
        """The tokens of a task's prompt."""
        names = [f"<{task}_{number}>" for number in range(length)]
        if self.words.unk_token_id in self.words.convert_tokens_to_ids(names):
            raise SystemExit(f"the export's tokenizer lacks tokens of the prompt of {task}, such as {names[0]}")
        return names

    def generated(self, rows: Sequence[EncodedRow]) -> list[list[int]]:
        """A batch, cut into as many as there are workers."""
        texts = [[*self.heads[r.prompt.task.name], *self.words.convert_ids_to_tokens(r.input_ids)] for r in rows]
        found = self.translator.translate_batch(
            texts, max_batch_size=self.tokens, batch_type="tokens", beam_size=1, max_decoding_length=self.longest
        )
        return [self.words.convert_tokens_to_ids(one.hypotheses[0]) for one in found]


def main(argv: list[str] | None = None) -> int:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=("peft", "ctranslate2"))
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--dtype", default="fp32", help="of transformers' model")
    parser.add_argument("--batch-tokens", type=int, default=Limits.batch_tokens)
    parser.add_argument("--compute", default="float32", help="CTranslate2's compute type")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="of each worker")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.workers * given.threads)
    predictor = load(given.prompts, engine="reference", device="cpu", dtype=given.dtype)
    peer: Peer
    if given.kind == "peft":
        peer = Peft(predictor)
    else:
        each = given.batch_tokens // given.workers
        peer = CTranslate2(predictor, given.compute, given.workers, given.threads, each)
    listening = bound("127.0.0.1", given.port)
    app = make_app(Served(peer), Limits(batch_tokens=given.batch_tokens, timeout=600.0), Access())
    print(f"serving {given.kind} on {url_of(listening)}", flush=True)
    return serve(app, listening)


if __name__ == "__main__":
    sys.exit(main())
