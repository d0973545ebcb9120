#!/usr/bin/env python3
"""RPTQ in whole jobs: schemes, more clusters give less error, KV alone leaves the rest alone, the same bytes with one and
two threads and after a kill. usage: test_rptq.py QUARRY"""
import json, os, signal, subprocess, sys
from quarry_job import results, run, same_results, scratch, short_text, write_job

quarry = sys.argv[1]
JOB = """
model: {data}/models/{model}
run_dir: {run_dir}
calibration: {{text: {data}/text/kjv/train.txt, samples: 4, sequence_length: 128, validation_samples: 2}}
quantize: {{method: rptq, segments: {segments}}}
evaluate: [{{name: kjv, text: {few}, sequence_length: 128}}]
"""


def few_lines(folder):
    """A tenth of the short text: the models of this test are compared with each other only."""
    path = os.path.join(folder, "few.txt")
    with open(short_text(folder, 6)) as source, open(path, "w") as out:
        out.write(source.read())
    return path


def go(folder, name, *sets, env=None, model="tiny-opt-kjv", segments=1, code=0):
    job = write_job(folder, f"{name}.yaml", name, text=JOB, few=few_lines(folder), model=model, segments=segments)
    got, out = run([quarry, "run", job, "--quiet", *(x for s in sets for x in ("--set", s))], env=env)
    assert got == code, f"{name}: exit {got}\n{out}"
    return os.path.join(folder, name)


def perplexity(run_dir):
    out = subprocess.run([quarry, "status", run_dir, "--json"], check=True, capture_output=True, text=True).stdout
    return json.loads(out)["perplexity"][0]


with scratch() as folder:
    w4a4 = go(folder, "w4a4", "rptq.scheme=W4A4", "resources.threads=1", segments=2)
    want, full = results(w4a4), perplexity(w4a4)
    threads = go(folder, "threads", "rptq.scheme=W4A4", "resources.threads=2", segments=2)
    assert not same_results(want, results(threads)), f"1 and 2 threads differ in {same_results(want, results(threads))}"
    go(folder, "killed", "rptq.scheme=W4A4", env={"QUARRY_TEST_KILL": "blocks/001"}, segments=2, code=-signal.SIGKILL)
    killed = go(folder, "killed", "rptq.scheme=W4A4", segments=2)
    assert not same_results(want, results(killed)), f"killed differs in {same_results(want, results(killed))}"

    # 8 bits of weights and activations are next to nothing; 4 bits more; one cluster for all still more
    fine = go(folder, "fine", "quantize.weights.bits=8", "quantize.activations.bits=8", "quantize.kv_cache.bits=8")
    one = go(folder, "one", "rptq={scheme: W4A4, clusters: 1, head_clusters: 1}")
    least, some, most = (perplexity(r)["stitched"] for r in (fine, w4a4, one))
    assert full["original"] * 0.99 < least < some < most < 2 * full["original"], (full, least, some, most)

    # one step a tensor and plain rounding: worse still; with weights alone it is what the method rtn gives of whole rows
    tensor = perplexity(go(folder, "tensor", "rptq={scheme: W4A4, clusters: 1, head_clusters: 0, weights: rtn}"))["stitched"]
    assert most < tensor < 2 * full["original"], (most, tensor)
    rows = ("quantize.weights.bits=3", "quantize.weights.group_size=-1")
    plain = perplexity(go(folder, "plain", "rptq={clusters: 1, head_clusters: 0, weights: rtn}", *rows))
    rtn = perplexity(go(folder, "rtn", "quantize.method=rtn", *rows))
    assert plain["stitched"] == rtn["stitched"], (plain, rtn)

    # what no format holds is refused before anything is written, also behind a format that does
    for name, formats, word in (("w4a4", "hf", "clusters"), ("rtn", "hf,awq", "awq"), ("rtn", "hf,hf", "twice"), ("rtn", "", "--format")):
        code, out = run([quarry, "export", os.path.join(folder, name), "--format", formats, "--output", os.path.join(folder, "out")])
        assert code == 2 and word in out and not os.path.exists(os.path.join(folder, "out")), f"{formats}: exit {code}\n{out}"
    for words in (("--sequence-length", "2k"), ("--sequence-length", "1"), ("--threads", "abc")):
        code, out = run([quarry, "eval", os.path.join(folder, "rtn"), "--text", few_lines(folder), *words])
        assert code == 2 and words[0] in out, f"{words}: exit {code}\n{out}"

    # the official code's all-zero samples go along with the stream, also after a restart
    published = ("rptq={scheme: W4A4KV, compat: true}", "calibration.samples=2")
    want = results(go(folder, "published", *published))
    go(folder, "interrupted", *published, env={"QUARRY_TEST_KILL": "blocks/002"}, code=-signal.SIGKILL)
    interrupted = results(go(folder, "interrupted", *published))
    assert not same_results(want, interrupted), f"interrupted differs in {same_results(want, interrupted)}"

    # E2E-QP trains the steps of clusters, with static activations in its passes
    trained = ("rptq.scheme=W4A4", "e2e_qp={batch_size: 4, epochs: 6, lr: 1.0e-3, loss: distill}", "calibration.sequence_length=64", "evaluate=[]")
    found = go(folder, "trained", *trained, "resources.threads=1", model="tiny-llama-kjv")
    again = results(go(folder, "trained-2", *trained, "resources.threads=2", model="tiny-llama-kjv"))
    assert not same_results(results(found), again), f"1 and 2 threads differ in {same_results(results(found), again)}"
    losses = [e["loss"] for e in map(json.loads, open(os.path.join(found, "metrics.jsonl"))) if e["phase"] == "e2e_qp" and "loss" in e]
    assert len(losses) == 6 and losses[-1] < 0.95 * losses[0], losses

    llama = perplexity(go(folder, "llama", "rptq={scheme: W4A4KV, clusters: 8, compat: true}", model="tiny-llama-kjv"))
    assert llama["original"] < llama["stitched"] < 1.3 * llama["original"], llama
    print(f"{full['original']:.3f}: W8A8 {least:.3f}, W4A4 {some:.3f}, one cluster {most:.3f}")
