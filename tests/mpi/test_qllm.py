#!/usr/bin/env python3
"""QLLM in whole jobs: no more error after training, the same bytes for one, two and three ranks and after a kill between the files
of a round; E2E-QP on the result; channel maps in the export, whose evaluation is the run's; OPT. usage: test_qllm.py QUARRY"""
import json, os, signal, subprocess, sys
import launch
from quarry_job import results, run, same_results, scratch, write_job

quarry = sys.argv[1]
JOB = """
model: {data}/models/{model}
run_dir: {run_dir}
calibration: {{text: {data}/text/kjv/train.txt, samples: 16, sequence_length: 32, validation_samples: 4}}
quantize: {{method: qllm, weights: {{bits: 4, group_size: -1}}, activations: {{bits: 4}}, kv_cache: {{bits: 8}}, segments: 2}}
qllm: {{epochs: 1, blocks_per_round: 2, least_gain: 0, search_samples: 4}}
e2e_qp: {{batch_size: 4}}
evaluate: [{{name: kjv, text: {text}, sequence_length: 64}}]
export: [hf]
checkpoint: {{recompute_minutes: 0}}
"""


def go(folder, name, ranks=1, env=None, model="tiny-llama-kjv", code=0):
    job = write_job(folder, f"{name}.yaml", name, text=JOB, model=model)
    if ranks > 1:
        got, out = launch.run(quarry, ranks, job)
    else:
        got, out = run([quarry, "run", job, "--quiet", "--set", "resources.threads=1"], env=env)
    assert got == code, f"{name}: exit {got}\n{out}"
    return os.path.join(folder, name)


def check(run_dir):
    """Training does no harm to any round, as far as so few steps can tell, and the end is near the original."""
    text = subprocess.run([quarry, "status", run_dir, "--json"], check=True, capture_output=True, text=True).stdout
    found = json.loads(text)
    for block in found["block"]:
        assert block["validation_after"] < 1.05 * block["validation_before"], block
    perplexity = found["perplexity"][0]
    for variant in ("stitched", "final"):
        assert perplexity["original"] < perplexity[variant] < 1.5 * perplexity["original"], perplexity


def evaluate(model, folder):
    """The last line of quarry eval of a run directory, or of an exported folder."""
    code, out = run([quarry, "eval", model, "--text", os.path.join(folder, "short.txt"), "--sequence-length", "64", "--threads", "1"])
    assert code == 0, out
    return out.splitlines()[-1]


with scratch() as folder:
    calm = go(folder, "calm")
    check(calm)
    want = results(calm)
    assert len(want) > 10, sorted(want)
    with open(os.path.join(calm, "export/hf/quarry.json")) as f:
        provenance = json.load(f)
    assert provenance["activation_bits"] == 4 and provenance["kv_bits"] == 8, provenance
    for plan in provenance["channel_maps"]:
        assert plan["offsets"][-1] == len(plan["items"]) > len(plan["offsets"]) - 1, plan["site"]
    assert provenance["channel_maps"], "no site is reassembled"
    of_run, of_folder = evaluate(calm, folder), evaluate(os.path.join(calm, "export/hf"), folder)
    assert of_run == of_folder and of_run.startswith("perplexity"), (of_run, of_folder)
    code, out = run([quarry, "export", calm, "--format", "compressed-tensors", "--output", os.path.join(folder, "ct")])
    assert code == 2 and "split and merged at run time" in out, f"exit {code}\n{out}"
    for where in ("blocks/004", "blocks/005"):  # between the files of a round; in a round that began with saved streams
        go(folder, "killed", env={"QUARRY_TEST_KILL": where}, code=-signal.SIGKILL)
    for name, made in (("after a kill", go(folder, "killed")), ("two ranks", go(folder, "two", ranks=2)),
                       ("three ranks", go(folder, "three", ranks=3))):
        different = same_results(want, results(made))
        assert not different, f"{name}: {different}"
    check(go(folder, "opt", model="tiny-opt-kjv"))
    print(f"{len(want)} files equal, {len(provenance['channel_maps'])} sites reassembled")
