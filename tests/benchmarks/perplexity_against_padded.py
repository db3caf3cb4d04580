"""The scorer `language_model` against the usual way: padded batches of 16 in the data's order, with full logits.

    python tests/benchmarks/perplexity_against_padded.py --corpus 'corpus/*.parquet' --megabytes 0.3

Both read the same windows with the same model: a Llama of 15M parameters with random weights and a tokenizer of 32,000
tokens that is trained on the corpus, or `--model`. Each way runs in a process of its own, on one library thread; laps
alternate, and the ratio is that of the medians. Ours also computes entropies, and its tokenizing is in its time; the
usual way is handed the tokens. `--long truncate` cuts documents to one window before, as is usual; `windows` does not.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from dsir_against_data_selection import read_texts
from tamis.connectors.corpus_config import CorpusConfig
from tamis.connectors.keys import hash_bytes, text_buffers
from tamis.connectors.memory import forget_peak, peak_bytes
from tamis.scoring.causal_model import causal_model
from tamis.scoring.language_model_scorer import LanguageModel, LanguageModelParameters
from tamis.scoring.scorer import Documents
from tamis.scoring.token_sequences import tokenise
from tamis.scoring.windows import cut_windows
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

BATCH, WARM_UP = 16, 4
PRODUCTS = ("mm", "linear", "attention", "gemm", "matmul")


def make_model(folder: Path, text: pa.Array) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=32_000, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(text.to_pylist(), trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 6}
    config = LlamaConfig(**sizes, vocab_size=32_000, max_position_embeddings=2048, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def prepared(model: str, context: int) -> LanguageModel:
    scorer = LanguageModel(LanguageModelParameters(scorer="language_model", model=model, context=context))
    scorer.prepare(CorpusConfig(format="parquet", paths=["in memory"]))
    return scorer


def truncated(text: pa.Array, scorer: LanguageModel, context: int) -> pa.Array:
    """Cut each text before the token that would not fit, and shorter where its tokens become others by that."""
    tokenizer = causal_model(scorer._prepared.key).tokenizer
    whole = text.to_pylist()
    for surplus in range(8):
        encodings = tokenizer.encode_batch(whole, add_special_tokens=False)
        whole = [
            one if len(encoding) <= context else one[: encoding.offsets[context - surplus][0]]
            for one, encoding in zip(whole, encodings, strict=True)
        ]
    return pa.array(whole, pa.large_string())


def documents(text: pa.Array) -> Documents:
    return Documents(text, hash_bytes(*text_buffers(text)))


def ours(model: str, text: pa.Array, context: int) -> tuple[float, np.ndarray, dict[str, float]]:
    scorer = prepared(model, context)
    scorer.score(documents(text[:WARM_UP]))
    usage = causal_model(scorer._prepared.key).usage
    usage.tokens = usage.padded = usage.waited = usage.ran = 0
    start, cpu = time.perf_counter(), time.process_time()
    columns = scorer.score(documents(text))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    waited = usage.waited / (usage.waited + usage.ran)
    return (
        seconds,
        columns[""].to_numpy(zero_copy_only=False),
        {"cpu": cpu, "waited": waited, "padding": 1 - usage.tokens / usage.padded},
    )


def padded(model: str, text: pa.Array, context: int) -> tuple[float, np.ndarray, dict[str, float]]:
    network = AutoModelForCausalLM.from_pretrained(model).eval()
    scorer = prepared(model, context)
    loaded = causal_model(scorer._prepared.key)
    sequences = tokenise(loaded.tokenizer, loaded.beginning, text)
    windows = cut_windows(sequences.lengths, sequences.first_scored, context, scorer._prepared.stride)
    sums, read = np.zeros(len(text)), [0, 0]

    def compute(chosen: range) -> None:
        length = int(windows.inputs[chosen].max())
        inputs = torch.zeros(len(chosen), length, dtype=torch.long)
        mask = torch.zeros_like(inputs)
        labels = torch.full_like(inputs, -100)
        for row, i in enumerate(chosen):
            start, end, first = int(windows.start[i]), int(windows.end[i]), int(windows.first[i])
            base = int(sequences.offsets[windows.sequence[i]])
            tokens = torch.from_numpy(sequences.tokens[base + start : base + end + 1].astype(np.int64))
            inputs[row, : end - start], mask[row, : end - start] = tokens[:-1], 1
            labels[row, first - 1 - start : end - start] = tokens[first - start :]
        logits = network(input_ids=inputs, attention_mask=mask, use_cache=False).logits.float()
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        by_window = losses.view(labels.shape).double().sum(1).numpy()
        np.add.at(sums, windows.sequence[chosen], by_window)
        read[0], read[1] = read[0] + int(mask.sum()), read[1] + mask.numel()

    with torch.inference_mode():
        compute(range(WARM_UP))
        sums[:], read[:] = 0, [0, 0]
        start, cpu = time.perf_counter(), time.process_time()
        for begin in range(0, len(windows), BATCH):
            compute(range(begin, min(begin + BATCH, len(windows))))
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return seconds, sums / (sequences.lengths - 1), {"cpu": cpu, "padding": 1 - read[0] / read[1]}


def lap(way: str, model: str, texts: Path, context: int) -> dict[str, object]:
    command = [sys.executable, __file__, "--way", way, "--model", model, "--corpus", str(texts)]
    done = subprocess.run([*command, "--contexts", str(context)], text=True, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{way} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run_way(way: str, model: str, texts: str, context: int) -> None:
    torch.set_num_threads(1)
    text = pq.read_table(texts)["text"].combine_chunks()
    forget_peak()
    seconds, nll, more = {"ours": ours, "padded": padded}[way](model, text, context)
    print(json.dumps({"seconds": seconds, "nll": nll.tolist(), "peak": peak_bytes(), **more}))


def compare(model: str, folder: Path, text: pa.Array, context: int, long: str, laps: int) -> None:
    scorer = prepared(model, context)
    if long == "truncate":
        text = truncated(text, scorer, context)
    texts = folder / f"{context}-{long}.parquet"
    pq.write_table(pa.table({"text": text}), texts)
    results = {"padded": [], "ours": []}
    for _ in range(laps):
        for way, found in results.items():
            found.append(lap(way, model, texts, context))
    loaded = causal_model(scorer._prepared.key)
    tokens = int((tokenise(loaded.tokenizer, loaded.beginning, text).lengths - 1).sum())
    seconds, cpu = (
        {way: statistics.median(found[clock] for found in laps) for way, laps in results.items()}
        for clock in ("seconds", "cpu")
    )
    peak = {way: min(found["peak"] for found in laps) / 1e6 for way, laps in results.items()}
    difference = np.abs(np.subtract(results["ours"][0]["nll"], results["padded"][0]["nll"])).max()
    print(f"context {context:,}, long documents: {long}; {len(text):,} documents, {tokens:,} tokens")
    for way, found in results.items():
        rate = f"{seconds[way]:8.1f} s, {cpu[way]:.1f} s of the processor {tokens / seconds[way]:8,.0f} tokens/s"
        print(f"  {way:7s}{rate}   peak {peak[way]:7,.0f} MB   padding {found[0]['padding']:.0%}")
    ratio, of_processor, memory = (way["padded"] / way["ours"] for way in (seconds, cpu, peak))
    print(f"  {ratio:.2f}x as fast, {of_processor:.2f}x by the processor's time, {1 / memory:.2f} of the memory")
    waited = results["ours"][0]["waited"]
    print(f"  largest difference of a mean NLL {difference:.1e}, waited for the tokenizer {waited:.2%}")


def profile(model: str, text: pa.Array, context: int) -> None:
    """Print the share of the time of scoring that is spent in matrix products, attention included."""
    torch.set_num_threads(1)
    scorer = prepared(model, context)
    scorer.score(documents(text[:WARM_UP]))
    with torch.profiler.profile(activities=list(torch.profiler.supported_activities())) as profiler:
        scorer.score(documents(text))
    own: dict[str, float] = {}
    for event in profiler.key_averages():
        own[event.key] = own.get(event.key, 0.0) + event.self_cpu_time_total + event.self_device_time_total
    whole = sum(own.values())
    products = sum(seconds for name, seconds in own.items() if any(part in name for part in PRODUCTS))
    print(f"context {context:,}: {products / whole:.0%} of {whole / 1e6:.1f} s in matrix products; most of the rest:")
    rest = [(seconds, name) for name, seconds in own.items() if not any(part in name for part in PRODUCTS)]
    for seconds, name in sorted(rest, reverse=True)[:6]:
        print(f"  {seconds / whole:6.1%} {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", required=True, help="glob of Parquet files with a column `text`")
    parser.add_argument("--megabytes", type=float, default=0.3, help="of the corpus to score")
    parser.add_argument("--model", help="folder; default: a Llama of 15M parameters")
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--long", choices=["truncate", "windows"], nargs="+", default=["truncate", "windows"])
    parser.add_argument("--laps", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="only say what ours spends its time on")
    parser.add_argument("--way", choices=["ours", "padded"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        run_way(options.way, options.model, options.corpus, options.contexts[0])
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = options.model or str(folder / "model")
        if options.model is None:
            make_model(Path(model), read_texts(options.corpus, "text", 5_000_000))
        text = read_texts(options.corpus, "text", int(options.megabytes * 1e6))
        for context in options.contexts if options.profile else ():
            profile(model, text, context)
        for long in () if options.profile else options.long:
            for context in options.contexts:
                compare(model, folder, text, context, long, options.laps)


if __name__ == "__main__":
    main()
