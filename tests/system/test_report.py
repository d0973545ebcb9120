#!/usr/bin/env python3
"""quarry report: before, during and after a run one HTML page that stands alone: no script, no link, no picture from
elsewhere; every drawing is well-formed, with the numbers of `status --json` in it. Headless Chromium lays it out, where
there is one (counted as skipped where not). Also the keys of `status --json`, which docs/status.md lists.
usage: test_report.py QUARRY"""
import json, os, re, shutil, subprocess, sys
import xml.etree.ElementTree as ElementTree
from quarry_job import run, scratch, write_job

quarry = sys.argv[1]
DOCS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs/status.md")


def page(run_dir):
    code, out = run([quarry, "report", run_dir])
    assert code == 0 and out.strip() == os.path.join(run_dir, "report.html"), (code, out)
    return open(os.path.join(run_dir, "report.html"), encoding="utf-8").read()


def status(run_dir):
    code, out = run([quarry, "status", run_dir, "--json"])
    assert code == 0, out
    return json.loads(out)


def drawings(text):
    found = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.S)]
    for svg in found:
        for shape in svg.iter():
            for key in ("x", "y", "width", "height", "cx", "cy", "x1", "x2", "y1", "y2"):
                assert abs(float(shape.get(key, "0"))) < 1e5, ElementTree.tostring(shape)
            assert float(shape.get("width", "0")) >= 0, ElementTree.tostring(shape)
    return found


def documented(value, path=""):
    """Every key of the object is a row of docs/status.md."""
    if isinstance(value, list):
        for item in value[:1]:
            documented(item, path + "[]")
    elif isinstance(value, dict) and path not in ("perplexity[]", "accuracy[]"):
        for key, inner in value.items():
            full = f"{path}.{key}" if path else key
            assert f"| `{full}` |" in open(DOCS).read(), f"{full} is not in docs/status.md"
            documented(inner, full)


def browse(chromium, run_dir, folder):
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/browser", "--timeout=20000",
               "--dump-dom", "file://" + os.path.join(run_dir, "report.html")]
    dom = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=90).stdout
    assert dom.count("<svg") >= 4 and "Workers" in dom and "</html>" in dom, dom[:2000]
    shot = os.path.join(folder, "report.png")
    subprocess.run(command[:-2] + ["--hide-scrollbars", "--window-size=1220,1400", f"--screenshot={shot}", command[-1]],
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=90)
    assert os.path.getsize(shot) > 30000, "an empty page"


with scratch() as folder:
    job, run_dir = write_job(folder), os.path.join(folder, "run")
    small = ["--set", "resources.threads=1", "--set", "evaluate.0.sequence_length=512", "--quiet"]
    code, out = run([quarry, "plan", job, "--save"])
    assert code == 0, out
    text, state = page(run_dir), status(run_dir)
    assert "No block has been finished yet" in text and "Nobody has worked yet" in text and state["state"] == "not started"
    documented(state)

    code, out = run([quarry, "run", job, *small], env={"QUARRY_TEST_KILL": "blocks/003"})
    assert code != 0
    text, state = page(run_dir), status(run_dir)
    assert state["state"] == "interrupted" and state["blocks"]["done"] == 3 and "3 of 6" in text and "cut short" in text
    documented(state)

    code, out = run([quarry, "run", job, *small])
    assert code == 0, out
    text, state = page(run_dir), status(run_dir)
    documented(state)
    assert state["starts"] == 2 and state["idle_starts"] == 0 and state["saved_s"] < 600, state
    assert {p["phase"]: p["state"] for p in state["phases"]}["e2e_qp"] == "done"
    assert not re.search(r"<script|<link|<img|src=|url\(|https?://|@import", text), "the page asks for something outside it"
    charts = drawings(text)
    assert len(charts) == 5, len(charts)
    dots = [c for c in charts[2].iter("circle")]
    assert len(dots) == 12, f"{len(dots)} dots for before and after of 6 blocks"
    shown = {d.find("title").text for d in dots}
    for b in state["block"]:
        assert f"block {b['block']}: {b['validation_after']:.4g}" in shown, (b, shown)
    for name in ("original", "rounded", "stitched", "final"):
        assert f"{state['perplexity'][0][name]:.3f}" in text, name
    tasks = [r.find("title").text for r in charts[4].iter("rect")]
    assert sum("segment" in t for t in tasks) >= 3 and any("cut short" in t for t in tasks) and any("e2e_qp" in t for t in tasks)
    assert os.path.getsize(os.path.join(run_dir, "report.html")) < 1 << 20

    code, out = run([quarry, "status", run_dir])
    assert code == 0 and "starts   2" in out and "\nquantize " in out, out
    code, out = run([quarry, "report", folder])
    assert code == 2 and "plan.json" in out, (code, out)

    # Where the checkpoint is not: on a login node, or after it was moved.
    job_yaml = os.path.join(run_dir, "job.yaml")
    kept = open(job_yaml).read()
    with open(job_yaml, "w") as f:
        f.write(re.sub(r"^model: .*$", "model: /nowhere/model", kept, flags=re.M))
    assert status(run_dir)["block"] == state["block"] and len(drawings(page(run_dir))) == len(charts)
    with open(job_yaml, "w") as f:
        f.write(kept)
    chromium = next((c for c in ("chromium", "chromium-browser", "google-chrome") if shutil.which(c)), None)
    if chromium:
        browse(chromium, run_dir, folder)
    print(f"page of {len(text)} bytes, {len(charts)} drawings; " + (f"laid out by {chromium}" if chromium else "SKIP: no chromium"))
    sys.exit(0 if chromium else 77)
