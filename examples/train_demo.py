"""Train the embedded demo model: a small SwiGLU transformer with grouped-query attention, from text alone.

A smoke test (a minute, no data needed):      python examples/train_demo.py --steps 20 --out /tmp/demo
The model in the package was trained with:    see the model card, dipc/demo/README.md

The run leaves config.json, model.safetensors (fp16), tokenizer.json, train_log.jsonl and the model card README.md in
--out. It checkpoints as it goes, and --resume continues from the last checkpoint.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

# Shape legend: B windows, T tokens of a window, V vocabulary.
END = "<|endoftext|>"
VOCAB, CONTEXT = 3072, 512
SAMPLE = Path(__file__).parent.parent / "dipc" / "demo" / "sample.txt"


@dataclass(frozen=True)
class Corpus:
    """Documents to train on and documents held out: no document is in both."""

    train: list[str]
    held_out: list[str]


def read_documents(path: Path) -> list[str]:
    """Documents of a .txt file (one) or of JSON lines with `title` and `text`, gzipped or not."""
    if path.suffix == ".txt":
        return [path.read_text(encoding="utf-8")]
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        records = (json.loads(line) for line in lines)
        return [f"{r['title']}\n{r['text']}".strip() for r in records]


def split(documents: list[str]) -> Corpus:
    """Hold out every hundredth document, or the last 2 % of a single one."""
    if len(documents) > 1:
        return Corpus([d for i, d in enumerate(documents) if i % 100], documents[::100])
    (text,) = documents
    cut = int(len(text) * 0.98)
    return Corpus([text[:cut]], [text[cut:]])


def train_tokenizer(documents: Iterable[str]) -> Tokenizer:
    """Byte-level BPE: every string can be encoded, and decoding gives it back exactly."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, documents: list[str]) -> torch.Tensor:
    """All documents as one row of token ids, an end token before each."""
    end = int(tokenizer.token_to_id(END) or 0)
    ids: list[int] = []
    for encoding in tokenizer.encode_batch(documents):
        ids.append(end)
        ids.extend(encoding.ids)
    return torch.tensor(ids, dtype=torch.int32)


def windows(ids: torch.Tensor, batch: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Batches [B, T+1] for ever: each epoch visits every window once, in a new order and at a new offset."""
    while True:
        spare = max(1, min(CONTEXT, len(ids) - CONTEXT - 1))
        offset = int(torch.randint(spare, (), generator=generator))
        starts = torch.arange(offset, max(offset + 1, len(ids) - CONTEXT), CONTEXT)
        starts = starts[torch.randperm(len(starts), generator=generator)]
        if len(starts) < batch:
            starts = starts.repeat(math.ceil(batch / len(starts)))
        for chunk in starts.split(batch):
            if len(chunk) == batch:
                yield torch.stack([ids[int(s) : int(s) + CONTEXT + 1] for s in chunk]).long()


@torch.no_grad()
def mean_nll(model: LlamaForCausalLM, ids: torch.Tensor, max_windows: int | None = None) -> tuple[float, int]:
    """Nats per predicted token over non-overlapping windows of the context length, and how many tokens that were."""
    model.eval()
    total, count = 0.0, 0
    rows = ids.long().split(CONTEXT)[:max_windows]
    for row in rows:
        if len(row) < 2:
            continue
        logits_TV = model(input_ids=row[None], use_cache=False).logits[0, :-1].float()
        total += float(torch.nn.functional.cross_entropy(logits_TV, row[1:], reduction="sum"))
        count += len(row) - 1
    model.train()
    return total / count, count


def optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.05),
        torch.optim.AdamW(others, lr=4e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def schedule(progress: float) -> float:
    """Warm up over 2 %, hold until 40 %, then fall linearly to 0: the loss flattens as the rate ends."""
    return min(1.0, progress / 0.02 + 0.02, (1.0 - progress) / 0.6)


def model_card(facts: dict[str, object]) -> str:
    """The README.md that goes beside the weights."""
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    return f"""# The demo model

A small language model that ships with dipc, so that every command can be tried without a download. It is a Llama-style
transformer (SwiGLU MLPs, grouped-query attention, tied embedding) trained from scratch by `examples/train_demo.py`.
It writes news-like English without much sense; it is here to be compiled, not to be believed.

| | |
|---|---|
{rows}

Perplexity is per token of this model's own tokenizer, over windows of {CONTEXT} tokens that do not overlap; bits per
byte do not depend on the tokenizer. `train_log.jsonl` beside this card has the held-out loss over training.
"""


def train(args: argparse.Namespace) -> None:
    """Tokenize, train, measure, save."""
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)

    corpora = [split(read_documents(path)) for path in args.data]
    documents = [d for c in corpora for d in c.train]
    tokenizer_file = out / "tokenizer.json"
    if args.resume and tokenizer_file.exists():
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    else:
        tokenizer = train_tokenizer(documents)
        tokenizer.save(str(tokenizer_file))
    ids = encode(tokenizer, documents)
    held_text = [d for c in dict(zip(args.data, corpora, strict=True)).values() for d in c.held_out]
    held_ids = encode(tokenizer, held_text)
    print(f"{len(ids):,} tokens to train on, {len(held_ids):,} held out, vocabulary {tokenizer.get_vocab_size()}")

    end = tokenizer.token_to_id(END)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=end,
        eos_token_id=end,
    )
    model = LlamaForCausalLM(config)
    run = torch.compile(model) if args.compile else model
    opts = optimizers(model)
    step, elapsed = 0, 0.0
    checkpoint = out / "checkpoint.pt"
    if args.resume and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for opt, saved in zip(opts, state["opts"], strict=True):
            opt.load_state_dict(saved)
        step, elapsed = state["step"], state["elapsed"]
        generator.manual_seed(args.seed + step)

    base = [opt.param_groups[0]["lr"] for opt in opts]
    begun = time.monotonic() - elapsed
    log = (out / "train_log.jsonl").open("a" if step else "w", encoding="utf-8")
    batches = windows(ids, args.batch, generator)
    while True:
        elapsed = time.monotonic() - begun
        progress = max(step / args.steps, elapsed / 60 / args.minutes if args.minutes else 0.0)
        if progress >= 1:
            break
        for opt, lr in zip(opts, base, strict=True):
            opt.param_groups[0]["lr"] = lr * schedule(progress)
        window = next(batches)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            logits_BTV = run(input_ids=window[:, :-1], use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1).float(), window[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        step += 1
        if step % args.log_every == 0:
            held, _ = mean_nll(model, held_ids, max_windows=40)
            record = {"step": step, "minutes": round(elapsed / 60, 1), "tokens": step * args.batch * CONTEXT}
            record |= {"train_loss": round(float(loss), 4), "held_out_loss": round(held, 4)}
            print(json.dumps(record), flush=True)
            log.write(json.dumps(record) + "\n")
            log.flush()
            state = {"model": model.state_dict(), "opts": [o.state_dict() for o in opts]}
            torch.save(state | {"step": step, "elapsed": elapsed}, checkpoint.with_suffix(".tmp"))
            os.replace(checkpoint.with_suffix(".tmp"), checkpoint)
    log.close()
    save(args, model, tokenizer, ids, held_text, held_ids, step, elapsed)


def save(
    args: argparse.Namespace,
    model: LlamaForCausalLM,
    tokenizer: Tokenizer,
    ids: torch.Tensor,
    held_text: list[str],
    held_ids: torch.Tensor,
    step: int,
    elapsed: float,
) -> None:
    """Round to fp16, measure what was saved, and write model, tokenizer and card."""
    model = model.half().float()
    held, _ = mean_nll(model, held_ids)
    held_bytes_per_token = sum(len(d.encode()) for d in held_text) / len(held_ids)
    parameters = sum(p.numel() for p in model.parameters())
    seen = step * args.batch * CONTEXT
    facts: dict[str, object] = {
        "parameters": f"{parameters:,} (fp16)",
        "trained on": ", ".join(dict.fromkeys(p.name for p in args.data)),
        "training": f"{step} steps of {args.batch} x {CONTEXT} tokens, {seen / 1e6:.1f} M in all "
        f"({seen / len(ids):.1f} epochs), {elapsed / 60:.0f} minutes, seed {args.seed}",
        "options": command_line(args),
        "held-out loss": f"{held:.4f} nats per token",
        "held-out bits per byte": f"{held / math.log(2) / held_bytes_per_token:.4f}",
    }
    for path in args.test:
        text = path.read_text(encoding="utf-8")
        test_ids = torch.tensor(tokenizer.encode(text).ids)
        nll, count = mean_nll(model, test_ids)
        facts[f"perplexity on {path.name}"] = f"{math.exp(nll):.2f} over {count:,} tokens"
        facts[f"bits per byte on {path.name}"] = f"{nll / math.log(2) / (len(text.encode()) / len(test_ids)):.4f}"
    model.half().save_pretrained(args.out)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, model_max_length=CONTEXT
    ).save_pretrained(args.out)
    (args.out / "README.md").write_text(model_card(facts), encoding="utf-8")
    (args.out / "checkpoint.pt").unlink(missing_ok=True)
    print(json.dumps(facts, indent=1))


def command_line(args: argparse.Namespace) -> str:
    """The options of this run as one would type them, with file names for paths."""
    words = [f"--data {p.name}" for p in args.data] + [f"--test {p.name}" for p in args.test]
    words += [f"--batch {args.batch}", f"--seed {args.seed}", f"--steps {args.steps}"]
    words += [f"--minutes {args.minutes:g}"] if args.minutes else []
    words += [f"--{name}" for name in ("compile", "bf16", "resume") if getattr(args, name)]
    return f"`{' '.join(words)}`"


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", help=".txt or .jsonl[.gz]; repeat a file to weight it")
    parser.add_argument("--test", type=Path, action="append", default=[], help="text to report perplexity on")
    parser.add_argument("--out", type=Path, default=Path("demo-model"))
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--minutes", type=float, help="stop after this time; the learning rate falls to fit it")
    parser.add_argument("--batch", type=int, default=16, help="windows of 512 tokens a step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--compile", action="store_true", help="torch.compile: about twice as fast, needs a compiler")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    args = parser.parse_args()
    args.data = args.data or [SAMPLE]
    train(args)


if __name__ == "__main__":
    main()
