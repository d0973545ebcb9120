#!/usr/bin/env python3
"""Files of a run that were damaged while it lay still: a byte flipped, the end cut off, or gone. The next start makes them again and
ends with the bytes of an undisturbed run, or refuses with the file's name and what to do, and goes on when that is done; it never
uses them. usage: test_damage.py QUARRY"""
import os, random, shutil, sys
from quarry_job import random_llama, results, run, same_results, scratch, write_job

quarry, rng = sys.argv[1], random.Random(3)
JOB = """
model: {model}
run_dir: {run_dir}
calibration: {{text: {data}/text/kjv/train.txt, samples: 4, sequence_length: 64, validation_samples: 1}}
quantize: {{weights: {{bits: 2, group_size: 32}}, segments: 2}}
block_ap: {{epochs: 40, batch_size: 1}}
e2e_qp: {{loss: distill, samples: 4, batch_size: 2, epochs: 2}}
evaluate: [{{name: kjv, text: {text}, sequence_length: 64}}]
resources: {{threads: 1}}
checkpoint: {{minutes: 0}}
"""
# Where a run was killed, and the files of it that are damaged then.
STATES = {"blocks/002.h5": ["tokens/calibration.h5", "segments/01/03.h5", "segments/01/00.h5", "blocks/002.partial.h5", "blocks/001.h5",
                            "plan.json", "job.yaml", "device.json", "ledger.jsonl", "metrics.jsonl"],
          "step-00003/002": ["segments/teacher/02.h5", "model/model.h5", "e2e/step-00002/001.h5", "tokens/e2e.h5"],
          "never": ["model/model.h5", "e2e/step-00004/000.h5", "ledger.jsonl"]}


def damage(path, how):
    size = os.path.getsize(path)
    if how == "gone":
        os.remove(path)
    elif how == "cut":
        os.truncate(path, size // 2)
    else:
        data = bytearray(open(path, "rb").read())
        at = rng.randrange(size // 4, size // 2)
        while 0 in data[at - 2:at + 3]:  # HDF5 leaves gaps, of zeros, that nobody reads
            at += 1
        data[at] ^= 0x10
        with open(path, "wb") as f:
            f.write(data)


with scratch() as folder:
    model = random_llama(folder, 3)
    calm = write_job(folder, "calm.yaml", "calm", JOB, model=model)
    code, out = run([quarry, "run", calm, "--quiet"])
    assert code == 0, out
    want, counts = results(os.path.join(folder, "calm")), {}
    for where, files in STATES.items():
        # A finished run reads its files only where something new is asked of it.
        settings = ["--set", "export=[gptq]"] if where == "never" else []
        base = os.path.join(folder, f"base-{len(counts)}")
        job = write_job(folder, "base.yaml", os.path.basename(base), JOB, model=model)
        code, out = run([quarry, "run", job, "--quiet"], env={"QUARRY_TEST_KILL": where})
        assert code == (0 if where == "never" else -9), f"{where}: exit {code}\n{out}"
        for path in files:
            # Of the last step the moments, most of the file, are not read any more.
            for how in ("cut", "gone") if path.startswith("e2e/step-00004") else ("flip", "cut", "gone"):
                run_dir = os.path.join(folder, "run")
                shutil.copytree(base, run_dir, copy_function=shutil.copy2)
                job = write_job(folder, "run.yaml", "run", JOB, model=model)
                damage(os.path.join(run_dir, path), how)
                code, out = run([quarry, "run", job, "--quiet", *settings])
                kind = "made again" if code == 0 else "refused"
                if code != 0:
                    assert code == 2 or code == 1, f"{how} {path}: exit {code}\n{out}"
                    assert os.path.basename(path) in out and ("emove" in out or "ename" in out), f"{how} {path}: exit {code}\n{out}"
                    os.rename(os.path.join(run_dir, path), os.path.join(run_dir, path + ".away"))
                    code, out = run([quarry, "run", job, "--quiet", *settings])
                    assert code == 0, f"{how} {path}, after its removal: exit {code}\n{out}"
                different = same_results(want, {k: v for k, v in results(run_dir).items() if k in want})
                assert not different, f"{how} {path}: {kind}, but these differ: {different}"
                counts.setdefault(f"{path} ({where})", []).append(f"{how} {kind}")
                shutil.rmtree(run_dir)
    for name, kinds in counts.items():
        print(f"{name:<44} {', '.join(kinds)}")
    # The checkpoint is another one now: what is made of the run would be a mixture of the two.
    calm = os.path.join(folder, "calm")
    verbs = [["export", calm, "--format", "gptq", "--output", os.path.join(folder, "out")],
             ["eval", calm, "--text", os.path.join(folder, "short.txt"), "--sequence-length", "64"]]
    damage(os.path.join(model, "model.safetensors"), "flip")
    for verb in verbs:
        code, out = run([quarry, *verb])
        assert code == 2 and "is not the checkpoint" in out, f"{verb[0]}: exit {code}\n{out}"
    assert not os.path.exists(os.path.join(folder, "out"))
