"""dipc from Python: capture a model, sparsify it, look, run, measure, and price it on a phone.

Run it with no arguments; it uses the model that ships with dipc.
"""

from __future__ import annotations

import dipc


def main() -> None:
    """The whole path in a dozen lines."""
    program = dipc.capture("demo")  # a Hugging Face id, a folder, a config.json and a module work as well
    result = dipc.compile(program, "dip-ca{density=0.5 gamma=0.2}")
    print(result)  # per pass: what was rewritten, what was skipped and why
    sparse = result.program

    written = dipc.generate(sparse, "The city council", max_new_tokens=40)
    print(f"\n{written.prompt}{written.text}\n")

    score = dipc.evaluate(sparse, seq_len=256, max_tokens=2048, record=True)
    print(f"perplexity {score.perplexity:.2f} (dense {score.dense_perplexity:.2f}) at density {score.density:.2f}")

    cost = dipc.estimate(sparse, "a18", dram="50%", max_tokens=1024)
    assert cost.sparse is not None
    print(f"simulated on {cost.device.name}: {cost.sparse.throughput:.0f} tok/s, {cost.speedup:.2f} times dense")


if __name__ == "__main__":
    main()
